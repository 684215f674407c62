// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/fs/aegisfs/DEVICE: one value a file, for each mounted volume. Names and
 * kobjects are here, because attributes are static tables of C; what stands in
 * the files comes from linux/vfs/sysfs.rs, by the file's name.
 */
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "shim.h"

struct aegisfs_sysfs {
	struct kobject kobj;
	const void *volume;
	aegisfs_show_t show;
};

static struct kobject *root;

#define VALUE(_name) \
	static struct attribute value_##_name = { .name = #_name, .mode = 0444 }

VALUE(uuid);
VALUE(label);
VALUE(generation);

static struct attribute *volume_values[] = {
	&value_uuid, &value_label, &value_generation, NULL
};

VALUE(read_errors);
VALUE(write_errors);
VALUE(flush_errors);
VALUE(checksum_errors);
VALUE(generation_errors);
VALUE(healed);

static struct attribute *device_values[] = {
	&value_read_errors, &value_write_errors, &value_flush_errors,
	&value_checksum_errors, &value_generation_errors, &value_healed, NULL
};

VALUE(state);
VALUE(bytes_done);
VALUE(bytes_total);
VALUE(errors_found);
VALUE(errors_healed);
VALUE(uncorrectable);

static struct attribute *scrub_values[] = {
	&value_state, &value_bytes_done, &value_bytes_total,
	&value_errors_found, &value_errors_healed, &value_uncorrectable, NULL
};

static const struct attribute_group volume_group = { .attrs = volume_values };
static const struct attribute_group device_group = { .name = "device0", .attrs = device_values };
static const struct attribute_group scrub_group = { .name = "scrub", .attrs = scrub_values };
static const struct attribute_group *groups[] = {
	&volume_group, &device_group, &scrub_group, NULL
};

static ssize_t show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct aegisfs_sysfs *s = container_of(kobj, struct aegisfs_sysfs, kobj);

	return s->show(s->volume, attr->name, buf, PAGE_SIZE);
}

static void release(struct kobject *kobj)
{
	kfree(container_of(kobj, struct aegisfs_sysfs, kobj));
}

static const struct sysfs_ops ops = { .show = show };

static const struct kobj_type type = {
	.sysfs_ops = &ops,
	.release = release,
	.default_groups = groups,
};

int aegisfs_sysfs_init(void)
{
	root = kobject_create_and_add("aegisfs", fs_kobj);
	return root ? 0 : -ENOMEM;
}

void aegisfs_sysfs_exit(void)
{
	kobject_put(root);
}

/* NULL when it cannot be had: a volume works without. */
struct aegisfs_sysfs *aegisfs_sysfs_add(const char *id, const void *volume, aegisfs_show_t show)
{
	struct aegisfs_sysfs *s = kzalloc(sizeof(*s), GFP_KERNEL);

	if (!s)
		return NULL;
	s->volume = volume;
	s->show = show;
	if (kobject_init_and_add(&s->kobj, &type, root, "%s", id)) {
		kobject_put(&s->kobj);
		return NULL;
	}
	return s;
}

/* When this returns, nobody is in `show`, and nobody will be. */
void aegisfs_sysfs_remove(struct aegisfs_sysfs *s)
{
	if (!s)
		return;
	kobject_del(&s->kobj);
	kobject_put(&s->kobj);
}
