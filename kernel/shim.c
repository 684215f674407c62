// SPDX-License-Identifier: GPL-2.0-only
/* See shim.h. */
#include <linux/bio.h>
#include <linux/crc32.h>
#include <linux/fadvise.h>
#include <linux/highmem.h>
#include <linux/iversion.h>
#include <linux/ioprio.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/prefetch.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/writeback.h>

#include "shim.h"

/* ---- memory */

unsigned int aegisfs_nofs_save(void)
{
	return memalloc_nofs_save();
}

void aegisfs_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool aegisfs_is_vmalloc(const void *p)
{
	return is_vmalloc_addr(p);
}

unsigned long aegisfs_ram_bytes(void)
{
	return totalram_pages() << PAGE_SHIFT;
}

/* ---- checksums */

bool aegisfs_crc32_is_fast(void)
{
	return crc32_optimizations() & CRC32_LE_OPTIMIZATION;
}

/*
 * Data is often not in the cache: it was written long ago, or the device has just put it there. A processor
 * fetches by itself what follows an access, in few places at a time and in one page; beginning in several
 * places of each block saves a third of the time (docs/performance.md).
 */
u32 aegisfs_crc32(u32 crc, const void *data, size_t len)
{
	size_t at;

	for (at = 0; at < len; at += 512)
		prefetch(data + at);
	return crc32_le(crc, data, len);
}

/* ---- log */

bool aegisfs_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 50);

	return __ratelimit(&limit);
}

int aegisfs_invalf(struct fs_context *fc, const char *text, int len)
{
	return invalf(fc, "%.*s", len, text);
}

void aegisfs_panic(const char *text)
{
	panic("aegisfs: %s\n", text);
}

/* ---- security modules */

int aegisfs_init_security(struct inode *inode, struct inode *dir, const struct qstr *name,
			  int (*collect)(struct inode *, const struct xattr *, void *), void *data)
{
	return security_inode_init_security(inode, dir, name, collect, data);
}

/* ---- threads, work, shrinker */

struct task_struct *aegisfs_kthread_create(int (*fn)(void *), void *data, const char *name,
					   const char *id)
{
	return kthread_create(fn, data, "%s/%s", name, id);
}

/*
 * Low, and not idle: a thread that is never given its turn while it holds a
 * lock, or a place in the journal's queue, makes others wait for it.
 */
void aegisfs_task_background(struct task_struct *task)
{
	set_user_nice(task, 10);
	/* Without an I/O context of its own it runs with the usual priority. */
	(void)set_task_ioprio(task, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7));
}

void aegisfs_work_init(struct work_struct *work, work_func_t fn)
{
	INIT_WORK(work, fn);
}

bool aegisfs_work_queue(struct workqueue_struct *wq, struct work_struct *work)
{
	return queue_work(wq, work);
}

/*
 * WQ_MEM_RECLAIM: writing pages back frees memory, so it must go on without
 * any. Unbound: one item may hash megabytes.
 */
struct workqueue_struct *aegisfs_workqueue_create(const char *name, const char *id)
{
	return alloc_workqueue("%s/%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name, id);
}

struct shrinker *aegisfs_shrinker_alloc(const char *id)
{
	return shrinker_alloc(0, "aegisfs-meta:%s", id);
}

/* ---- inode cache */

struct kmem_cache *aegisfs_inode_cache_create(unsigned int size, unsigned int align,
					      void (*ctor)(void *))
{
	return kmem_cache_create("aegisfs_inode", size, align,
				 SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ctor);
}

void *aegisfs_inode_cache_alloc(struct super_block *sb, struct kmem_cache *cache)
{
	return alloc_inode_sb(sb, cache, GFP_KERNEL);
}

/* ---- inode */

struct inode *aegisfs_file_inode(const struct file *f)
{
	return file_inode(f);
}

bool aegisfs_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

/* Under I_SYNC somebody may have taken the flags and not stored anything yet. */
bool aegisfs_inode_is_dirty(struct inode *inode)
{
	return inode_state_read_once(inode) & (I_DIRTY_ALL | I_SYNC);
}

loff_t aegisfs_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

void aegisfs_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

void aegisfs_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

void aegisfs_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

bool aegisfs_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

void aegisfs_inode_lock_shared(struct inode *inode)
{
	inode_lock_shared(inode);
}

void aegisfs_inode_unlock_shared(struct inode *inode)
{
	inode_unlock_shared(inode);
}

bool aegisfs_inode_trylock_shared(struct inode *inode)
{
	return inode_trylock_shared(inode);
}

void aegisfs_invalidate_lock(struct inode *inode)
{
	filemap_invalidate_lock(inode->i_mapping);
}

void aegisfs_invalidate_unlock(struct inode *inode)
{
	filemap_invalidate_unlock(inode->i_mapping);
}

void aegisfs_invalidate_lock_shared(struct inode *inode)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
}

void aegisfs_invalidate_unlock_shared(struct inode *inode)
{
	filemap_invalidate_unlock_shared(inode->i_mapping);
}

uid_t aegisfs_i_uid_read(const struct inode *inode)
{
	return i_uid_read(inode);
}

gid_t aegisfs_i_gid_read(const struct inode *inode)
{
	return i_gid_read(inode);
}

void aegisfs_i_uid_write(struct inode *inode, uid_t uid)
{
	i_uid_write(inode, uid);
}

void aegisfs_i_gid_write(struct inode *inode, gid_t gid)
{
	i_gid_write(inode, gid);
}

void aegisfs_acl_release(struct posix_acl *acl)
{
	posix_acl_release(acl);
}

void aegisfs_set_cached_link(struct inode *inode, char *link, int len)
{
	inode_set_cached_link(inode, link, len);
}

/*
 * Large folios; and stable pages, because the checksum of a block is computed
 * before it is written, and must still be right when the device reads it.
 */
void aegisfs_mapping_setup(struct address_space *mapping)
{
	mapping_set_large_folios(mapping);
	mapping_set_stable_writes(mapping);
}

u32 aegisfs_encode_major(dev_t dev)
{
	return MAJOR(dev);
}

u32 aegisfs_encode_minor(dev_t dev)
{
	return MINOR(dev);
}

dev_t aegisfs_decode_dev(u32 major, u32 minor)
{
	return MKDEV(major, minor);
}

bool aegisfs_is_sync(const struct inode *inode)
{
	return IS_SYNC(inode);
}

bool aegisfs_is_dirsync(const struct inode *inode)
{
	return IS_DIRSYNC(inode);
}

void aegisfs_iversion_set(struct inode *inode, u64 version)
{
	inode_set_iversion_queried(inode, version);
}

u64 aegisfs_iversion_peek(const struct inode *inode)
{
	return inode_peek_iversion(inode);
}

void aegisfs_iversion_changed(struct inode *inode)
{
	inode_maybe_inc_iversion(inode, false);
}

uid_t aegisfs_new_uid(struct mnt_idmap *idmap)
{
	return from_kuid(&init_user_ns, mapped_fsuid(idmap, &init_user_ns));
}

/* What is made in a set-group-ID directory has its group. */
gid_t aegisfs_new_gid(struct mnt_idmap *idmap, const struct inode *dir)
{
	if (dir->i_mode & S_ISGID)
		return i_gid_read(dir);
	return from_kgid(&init_user_ns, mapped_fsgid(idmap, &init_user_ns));
}

/* ---- super block */

void aegisfs_sb_start_intwrite(struct super_block *sb)
{
	sb_start_intwrite(sb);
}

void aegisfs_sb_end_intwrite(struct super_block *sb)
{
	sb_end_intwrite(sb);
}

void aegisfs_sb_start_pagefault(struct super_block *sb)
{
	sb_start_pagefault(sb);
}

void aegisfs_sb_end_pagefault(struct super_block *sb)
{
	sb_end_pagefault(sb);
}

bool aegisfs_sb_rdonly(const struct super_block *sb)
{
	return sb_rdonly(sb);
}

/*
 * Writes all dirty pages, unless the volume is just being frozen or unmounted,
 * which do the same: the caller may be what they wait for.
 */
void aegisfs_sync_inodes(struct super_block *sb)
{
	if (down_read_trylock(&sb->s_umount)) {
		sync_inodes_sb(sb);
		up_read(&sb->s_umount);
	}
}

void aegisfs_sb_identify(struct super_block *sb, const u8 *uuid)
{
	super_set_uuid(sb, uuid, UUID_SIZE);
	super_set_sysfs_name_uuid(sb);
}

bool aegisfs_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

u64 aegisfs_bdev_bytes(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

/* ---- files and directories */

bool aegisfs_dir_emit_dots(struct file *file, struct dir_context *ctx)
{
	return dir_emit_dots(file, ctx);
}

bool aegisfs_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
		      unsigned int type)
{
	return dir_emit(ctx, name, len, ino, type);
}

ssize_t aegisfs_generic_write_sync(struct kiocb *iocb, ssize_t count)
{
	return generic_write_sync(iocb, count);
}

void aegisfs_file_opened(struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT | FMODE_NOWAIT;
}

void aegisfs_file_accessed(struct file *file)
{
	file_accessed(file);
}

bool aegisfs_file_is_sync(const struct file *file)
{
	return (file->f_flags & O_DSYNC) || IS_SYNC(file_inode(file));
}

bool aegisfs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

struct dentry *aegisfs_file_dentry(struct file *file)
{
	return file_dentry(file);
}

int aegisfs_finish_open_simple(struct file *file, int error)
{
	return finish_open_simple(file, error);
}

size_t aegisfs_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

void aegisfs_seq_option(struct seq_file *m, const char *name, const char *value)
{
	seq_show_option(m, name, value);
}

void aegisfs_seq_option_u64(struct seq_file *m, const char *name, u64 value)
{
	seq_printf(m, ",%s=%llu", name, value);
}

unsigned int aegisfs_dio_mem_align(struct block_device *bdev)
{
	return bdev_dma_alignment(bdev) + 1;
}

unsigned int aegisfs_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

unsigned int aegisfs_physical_block_size(struct block_device *bdev)
{
	return bdev_physical_block_size(bdev);
}

unsigned int aegisfs_discard_granularity(struct block_device *bdev)
{
	return bdev_max_discard_sectors(bdev) ? bdev_discard_granularity(bdev) : 0;
}

bool aegisfs_fatal_signal(void)
{
	return fatal_signal_pending(current);
}

/* ---- page cache and bios */

void *aegisfs_folio_address(struct folio *folio, size_t offset)
{
	return folio_address(folio) + offset;
}

loff_t aegisfs_folio_end(struct folio *folio)
{
	return folio_next_pos(folio);
}

size_t aegisfs_offset_in_folio(struct folio *folio, loff_t pos)
{
	return offset_in_folio(folio, pos);
}

size_t aegisfs_readahead_length(struct readahead_control *rac)
{
	return readahead_length(rac);
}

/*
 * Whether who starts readahead also waits for it: a read with IOCB_NOWAIT does
 * it under memalloc_noio_save(), and so does aegisfs_fadvise().
 */
bool aegisfs_may_wait_for_io(void)
{
	return !(current->flags & PF_MEMALLOC_NOIO);
}

static void aegisfs_bio_done(struct bio *bio)
{
	complete(bio->bi_private);
}

/*
 * A worker dispatches requests that nobody has plugged (if the queue has a
 * scheduler), and those that are still plugged when their task sleeps. Either
 * is a switch of tasks that this one can spare. Whoever plugged before finds it
 * done.
 */
void aegisfs_submit_bio_now(struct bio *bio)
{
	struct blk_plug plug;

	bio->bi_opf |= REQ_SYNC;
	blk_start_plug(&plug);
	submit_bio(bio);
	blk_finish_plug(current->plug);
}

static void aegisfs_submit_bio_to(struct bio *bio, struct completion *done)
{
	init_completion(done);
	bio->bi_private = done;
	bio->bi_end_io = aegisfs_bio_done;
	aegisfs_submit_bio_now(bio);
}

/* How it went stands in the bio, whose owner keeps what is private there. */
void aegisfs_submit_bio_wait(struct bio *bio)
{
	void *private = bio->bi_private;
	struct completion done;

	aegisfs_submit_bio_to(bio, &done);
	wait_for_completion_io(&done);
	bio->bi_private = private;
}

/*
 * Reads in parts of PART bytes, and gives each to done() when it has come, in order:
 * the device reads the next ones meanwhile. In C, for the parts need no memory when
 * they are on the stack, where Rust would have to pin them.
 */
#define PART (256 << 10)

struct aegisfs_part {
	struct bio bio;
	struct bvec_iter start;
	struct completion ended;
};

void aegisfs_read_in_parts(struct bio *bio,
			   void (*done)(void *ctx, const struct bvec_iter *part,
					bool failed),
			   void *ctx)
{
	void *private = bio->bi_private;
	struct aegisfs_part parts[3];
	struct completion ended;
	struct bvec_iter start;
	int i, n = 0;

	while (n < ARRAY_SIZE(parts) && bio->bi_iter.bi_size > PART) {
		struct aegisfs_part *part = &parts[n];

		/* Without memory for it, the rest is one part. */
		if (bio_init_clone(bio->bi_bdev, &part->bio, bio, GFP_NOFS))
			break;
		part->bio.bi_iter.bi_size = PART;
		part->start = part->bio.bi_iter;
		bio_advance(bio, PART);
		aegisfs_submit_bio_to(&part->bio, &part->ended);
		n++;
	}
	start = bio->bi_iter;
	aegisfs_submit_bio_to(bio, &ended);
	for (i = 0; i < n; i++) {
		wait_for_completion_io(&parts[i].ended);
		done(ctx, &parts[i].start, parts[i].bio.bi_status);
		bio_uninit(&parts[i].bio);
	}
	wait_for_completion_io(&ended);
	bio->bi_private = private;
	done(ctx, &start, bio->bi_status);
}

/* Whether nothing but this ioend is left of a write without errors. */
bool aegisfs_ioend_is_last(struct iomap_ioend *ioend)
{
	return !ioend->io_parent && atomic_read(&ioend->io_remaining) == 1 &&
	       !ioend->io_error;
}

/* As iomap_finish_ioends() of a successful write that is the last, in interrupts. */
void aegisfs_ioend_written(struct iomap_ioend *ioend)
{
	struct bio *bio = &ioend->io_bio;
	struct folio_iter fi;

	if (ioend->io_flags & IOMAP_IOEND_DIRECT) {
		iomap_dio_bio_end_io(bio);
		return;
	}
	bio_for_each_folio_all(fi, bio)
		iomap_finish_folio_write(ioend->io_inode, fi.folio, fi.length);
	bio_put(bio);
}

int aegisfs_fadvise(struct file *file, loff_t offset, loff_t len, int advice)
{
	unsigned int flags;
	int err;

	if (advice != POSIX_FADV_WILLNEED)
		return generic_fadvise(file, offset, len, advice);
	flags = memalloc_noio_save();
	err = generic_fadvise(file, offset, len, advice);
	memalloc_noio_restore(flags);
	return err;
}

/*
 * A shared mapping may have written past the end of the file in its last page.
 * Writeback zeroes that, but a size that grows would show it before. Only a
 * dirty folio can hold such bytes: on the disk they are always zero.
 */
void aegisfs_zero_eof(struct inode *inode, loff_t eof)
{
	struct folio *folio;

	if (!offset_in_page(eof))
		return;
	folio = filemap_lock_folio(inode->i_mapping, eof >> PAGE_SHIFT);
	if (IS_ERR(folio))
		return;
	if (folio_test_dirty(folio)) {
		size_t from = offset_in_folio(folio, eof);

		folio_wait_stable(folio);
		folio_zero_segment(folio, from, round_up(from, PAGE_SIZE));
	}
	folio_unlock(folio);
	folio_put(folio);
}

void aegisfs_bio_for_each_folio(struct bio *bio,
		void (*cb)(void *ctx, struct folio *folio, size_t off, size_t len, loff_t pos),
		void *ctx)
{
	struct folio_iter fi;

	/* The iterator steps on before the folio that it leaves can be freed. */
	bio_for_each_folio_all(fi, bio)
		cb(ctx, fi.folio, fi.offset, fi.length, folio_pos(fi.folio) + fi.offset);
}

void aegisfs_bio_for_each_segment(struct bio *bio, struct bvec_iter start,
		void (*cb)(void *ctx, void *data, size_t len), void *ctx)
{
	struct bvec_iter iter;
	struct bio_vec bv;

	__bio_for_each_bvec(bv, bio, iter, start)
		cb(ctx, bvec_virt(&bv), bv.bv_len);
}

void aegisfs_bio_set_dev(struct bio *bio, struct block_device *bdev)
{
	bio_set_dev(bio, bdev);
}

void aegisfs_bio_clear_complete_in_task(struct bio *bio)
{
	bio_clear_flag(bio, BIO_COMPLETE_IN_TASK);
}

void aegisfs_bio_add_virt(struct bio *bio, void *data, unsigned int len)
{
	bio_add_virt_nofail(bio, data, len);
}
