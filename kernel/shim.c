// SPDX-License-Identifier: GPL-2.0-only
/* See shim.h. */
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>

#include "shim.h"

unsigned int aegisfs_nofs_save(void)
{
	return memalloc_nofs_save();
}

void aegisfs_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool aegisfs_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 50);

	return __ratelimit(&limit);
}
