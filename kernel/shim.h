/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Rust cannot call by itself: inline functions, macros and variadic
 * functions of the kernel. One line each; anything with logic in it is a
 * mistake here, except where a comment says why.
 */
#ifndef AEGISFS_SHIM_H
#define AEGISFS_SHIM_H

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

/* memory */
unsigned int	aegisfs_nofs_save(void);
void		aegisfs_nofs_restore(unsigned int flags);

/* log */
bool		aegisfs_may_log(void);

#endif
