/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The block device that is served: whatever driver, or stack of drivers, the kernel has below that name. The requests
 * themselves go through the ring; here is what is done once, or at once.
 */
#ifndef DISK_H
#define DISK_H

#include "../base.h"

struct disk {
    s32 fd;
    u64 size;                        /* bytes */
    u32 block;                       /* bytes: its requests begin and end at multiples of it */
    bool read_only;
};

extern struct disk disk;

void disk_open(const char *path);                /* waits until it is there */
u64 disk_down(u64 offset);                       /* to a multiple of a block */
u64 disk_up(u64 offset);

/* Writes bytes that do not begin and end with blocks: `data` has room for the whole of the first and the last, which
 * are read first. Nothing else may be in flight. An error number, 0 when all is well. */
s32 disk_patch(u8 *data, u64 offset, u32 length, bool durable);

#endif
