/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where requests' data lies: one range of memory that the kernel knows as a fixed buffer, handed out in runs of pages.
 * It is twice what the host ever has in flight, so a run is found although they come and go in any order; when none is,
 * some come back first.
 */
#ifndef ARENA_H
#define ARENA_H

#include "../base.h"

#define PAGE 4096U
#define ARENA_BYTES (8U << 20)

void *arena_open(void);                          /* the whole range */
u8 *arena_take(u32 bytes);                       /* page-aligned; 0 when no run is long enough now */
void arena_drop(u8 *data, u32 bytes);            /* the same number as taken */

#endif
