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
#include <linux/fs_context.h>
#include <linux/iomap.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/seq_file.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>

/* memory */
unsigned int	aegisfs_nofs_save(void);
void		aegisfs_nofs_restore(unsigned int flags);
bool		aegisfs_is_vmalloc(const void *p);
unsigned long	aegisfs_ram_bytes(void);

/* checksums */
bool		aegisfs_crc32_is_fast(void);
u32		aegisfs_crc32(u32 crc, const void *data, size_t len);

/* log */
bool		aegisfs_may_log(void);
int		aegisfs_invalf(struct fs_context *fc, const char *text, int len);
void		aegisfs_panic(const char *text) __noreturn;

/* security modules: inline in kernels without them */
int		aegisfs_init_security(struct inode *inode, struct inode *dir,
				      const struct qstr *name,
				      int (*collect)(struct inode *, const struct xattr *, void *),
				      void *data);

/* threads, work, shrinker */
struct task_struct *aegisfs_kthread_create(int (*fn)(void *), void *data, const char *name,
					   const char *id);
void		aegisfs_task_background(struct task_struct *task);
void		aegisfs_work_init(struct work_struct *work, work_func_t fn);
bool		aegisfs_work_queue(struct workqueue_struct *wq, struct work_struct *work);
struct workqueue_struct *aegisfs_workqueue_create(const char *name, const char *id);
struct shrinker *aegisfs_shrinker_alloc(const char *id);

/* sysfs (sysfs.c) */
struct aegisfs_sysfs;
typedef ssize_t (*aegisfs_show_t)(const void *volume, const char *name, char *out, size_t len);

int		aegisfs_sysfs_init(void);
void		aegisfs_sysfs_exit(void);
struct aegisfs_sysfs *aegisfs_sysfs_add(const char *id, const void *volume, aegisfs_show_t show);
void		aegisfs_sysfs_remove(struct aegisfs_sysfs *s);

/* inode cache */
struct kmem_cache *aegisfs_inode_cache_create(unsigned int size, unsigned int align,
					      void (*ctor)(void *));
void	       *aegisfs_inode_cache_alloc(struct super_block *sb, struct kmem_cache *cache);

/* inode */
struct inode   *aegisfs_file_inode(const struct file *f);
bool		aegisfs_inode_is_new(struct inode *inode);
bool		aegisfs_inode_is_dirty(struct inode *inode);
loff_t		aegisfs_i_size_read(const struct inode *inode);
void		aegisfs_i_size_write(struct inode *inode, loff_t size);
void		aegisfs_inode_lock(struct inode *inode);
void		aegisfs_inode_unlock(struct inode *inode);
bool		aegisfs_inode_trylock(struct inode *inode);
void		aegisfs_inode_lock_shared(struct inode *inode);
void		aegisfs_inode_unlock_shared(struct inode *inode);
bool		aegisfs_inode_trylock_shared(struct inode *inode);
void		aegisfs_invalidate_lock(struct inode *inode);
void		aegisfs_invalidate_unlock(struct inode *inode);
void		aegisfs_invalidate_lock_shared(struct inode *inode);
void		aegisfs_invalidate_unlock_shared(struct inode *inode);
uid_t		aegisfs_i_uid_read(const struct inode *inode);
gid_t		aegisfs_i_gid_read(const struct inode *inode);
void		aegisfs_i_uid_write(struct inode *inode, uid_t uid);
void		aegisfs_i_gid_write(struct inode *inode, gid_t gid);
void		aegisfs_acl_release(struct posix_acl *acl);
void		aegisfs_set_cached_link(struct inode *inode, char *link, int len);
void		aegisfs_mapping_setup(struct address_space *mapping);
u32		aegisfs_encode_major(dev_t dev);
u32		aegisfs_encode_minor(dev_t dev);
dev_t		aegisfs_decode_dev(u32 major, u32 minor);
bool		aegisfs_is_sync(const struct inode *inode);
bool		aegisfs_is_dirsync(const struct inode *inode);
void		aegisfs_iversion_set(struct inode *inode, u64 version);
u64		aegisfs_iversion_peek(const struct inode *inode);
void		aegisfs_iversion_changed(struct inode *inode);
uid_t		aegisfs_new_uid(struct mnt_idmap *idmap);
gid_t		aegisfs_new_gid(struct mnt_idmap *idmap, const struct inode *dir);

/* super block */
void		aegisfs_sb_start_intwrite(struct super_block *sb);
void		aegisfs_sb_end_intwrite(struct super_block *sb);
void		aegisfs_sb_start_pagefault(struct super_block *sb);
void		aegisfs_sb_end_pagefault(struct super_block *sb);
bool		aegisfs_sb_rdonly(const struct super_block *sb);
void		aegisfs_sync_inodes(struct super_block *sb);
void		aegisfs_sb_identify(struct super_block *sb, const u8 *uuid);
bool		aegisfs_bdev_read_only(struct block_device *bdev);
u64		aegisfs_bdev_bytes(struct block_device *bdev);

/* files and directories */
bool		aegisfs_dir_emit_dots(struct file *file, struct dir_context *ctx);
bool		aegisfs_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
				 unsigned int type);
ssize_t		aegisfs_generic_write_sync(struct kiocb *iocb, ssize_t count);
void		aegisfs_file_opened(struct file *file);
void		aegisfs_file_accessed(struct file *file);
bool		aegisfs_file_is_sync(const struct file *file);
bool		aegisfs_fatal_signal_pending(void);
struct dentry  *aegisfs_file_dentry(struct file *file);
int		aegisfs_finish_open_simple(struct file *file, int error);
size_t		aegisfs_iov_iter_count(const struct iov_iter *iter);
void		aegisfs_seq_option(struct seq_file *m, const char *name, const char *value);
void		aegisfs_seq_option_u64(struct seq_file *m, const char *name, u64 value);
unsigned int	aegisfs_dio_mem_align(struct block_device *bdev);
unsigned int	aegisfs_discard_granularity(struct block_device *bdev);
bool		aegisfs_fatal_signal(void);
unsigned int	aegisfs_logical_block_size(struct block_device *bdev);
unsigned int	aegisfs_physical_block_size(struct block_device *bdev);

/* page cache and bios */
void	       *aegisfs_folio_address(struct folio *folio, size_t offset);
loff_t		aegisfs_folio_end(struct folio *folio);
size_t		aegisfs_offset_in_folio(struct folio *folio, loff_t pos);
void		aegisfs_zero_eof(struct inode *inode, loff_t eof);
size_t		aegisfs_readahead_length(struct readahead_control *rac);
bool		aegisfs_may_wait_for_io(void);
void		aegisfs_submit_bio_now(struct bio *bio);
bool		aegisfs_ioend_is_last(struct iomap_ioend *ioend);
void		aegisfs_ioend_written(struct iomap_ioend *ioend);
void		aegisfs_submit_bio_wait(struct bio *bio);
void		aegisfs_read_in_parts(struct bio *bio,
			void (*done)(void *ctx, const struct bvec_iter *part,
				     bool failed),
			void *ctx);
int		aegisfs_fadvise(struct file *file, loff_t offset, loff_t len, int advice);
void		aegisfs_bio_for_each_folio(struct bio *bio,
			void (*cb)(void *ctx, struct folio *folio, size_t off, size_t len,
				   loff_t pos),
			void *ctx);
void		aegisfs_bio_for_each_segment(struct bio *bio, struct bvec_iter start,
			void (*cb)(void *ctx, void *data, size_t len), void *ctx);
void		aegisfs_bio_set_dev(struct bio *bio, struct block_device *bdev);
void		aegisfs_bio_clear_complete_in_task(struct bio *bio);
void		aegisfs_bio_add_virt(struct bio *bio, void *data, unsigned int len);

#endif
