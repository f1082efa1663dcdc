/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The RAM behind the image: handed out once, never taken back. Pools with a free list are built on top of it.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include "base.h"

void memory_init(u64 ram_base, u64 ram_size);
u64 memory_left(void);                           /* bytes */
void *memory_take(u64 length, u64 alignment);    /* zeroed; panics when there is no more */
void *memory_take_raw(u64 length, u64 alignment); /* the same, not zeroed: untouched pages stay untouched */

#endif
