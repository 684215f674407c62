/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Input of bindgen: the headers that the kernel's own Rust bindings do not
 * cover, and constants that bindgen cannot see because they are casts.
 */

/* First: without it bindgen gives some enums the wrong type (as in the kernel's own helper). */
#include <linux/hrtimer_types.h>

#include <linux/exportfs.h>
#include <linux/falloc.h>
#include <linux/filelock.h>
#include <linux/fiemap.h>
#include <linux/fileattr.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/fserror.h>
#include <linux/iomap.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/shrinker.h>
#include <linux/statfs.h>
#include <linux/workqueue.h>
#include <linux/writeback.h>

#include "shim.h"

const gfp_t RUST_CONST_HELPER_GFP_NOFS = GFP_NOFS;
const gfp_t RUST_CONST_HELPER_GFP_NOIO = GFP_NOIO;
const gfp_t RUST_CONST_HELPER_GFP_KERNEL = GFP_KERNEL;
const gfp_t RUST_CONST_HELPER___GFP_FS = __GFP_FS;
const blk_opf_t RUST_CONST_HELPER_REQ_META = REQ_META;
const blk_opf_t RUST_CONST_HELPER_REQ_SYNC = REQ_SYNC;
const blk_opf_t RUST_CONST_HELPER_REQ_PRIO = REQ_PRIO;
const blk_opf_t RUST_CONST_HELPER_REQ_FUA = REQ_FUA;
const blk_opf_t RUST_CONST_HELPER_REQ_PREFLUSH = REQ_PREFLUSH;
const u32 RUST_CONST_HELPER_I_CTIME_QUERIED = I_CTIME_QUERIED;
const unsigned long RUST_CONST_HELPER_SB_RDONLY = SB_RDONLY;
const unsigned long RUST_CONST_HELPER_SB_POSIXACL = SB_POSIXACL;
const unsigned long RUST_CONST_HELPER_SB_I_VERSION = SB_I_VERSION;
const unsigned long RUST_CONST_HELPER_SB_I_CGROUPWB = SB_I_CGROUPWB;
const unsigned long RUST_CONST_HELPER_SB_I_STABLE_WRITES = SB_I_STABLE_WRITES;
const u32 RUST_CONST_HELPER_FOP_BUFFER_RASYNC = (__force u32)FOP_BUFFER_RASYNC;
const u32 RUST_CONST_HELPER_FOP_BUFFER_WASYNC = (__force u32)FOP_BUFFER_WASYNC;
const u32 RUST_CONST_HELPER_FOP_DIO_PARALLEL_WRITE = (__force u32)FOP_DIO_PARALLEL_WRITE;
const u32 RUST_CONST_HELPER_FOP_DONTCACHE = (__force u32)FOP_DONTCACHE;
const int RUST_CONST_HELPER_IOCB_NOWAIT = IOCB_NOWAIT;
const int RUST_CONST_HELPER_IOCB_APPEND = IOCB_APPEND;
