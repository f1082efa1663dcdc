/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One byte a page says whether it is taken; the search goes on where the last one ended.
 */
#include "arena.h"
#include "linux.h"

#define PAGES (ARENA_BYTES / PAGE)

static u8 *base;
static bool taken[PAGES];
static u32 next;

void *arena_open(void)
{
    base = map_memory(ARENA_BYTES);
    return base;
}

static u32 pages_of(u32 bytes) { return (bytes + PAGE - 1) / PAGE; }

/* The first run of free pages in [from, to), or PAGES. */
static u32 find(u32 from, u32 to, u32 count)
{
    u32 free = 0;
    for (u32 i = from; i < to; i++) {
        free = taken[i] ? 0 : free + 1;
        if (free == count)
            return i + 1 - count;
    }
    return PAGES;
}

u8 *arena_take(u32 bytes)
{
    u32 count = pages_of(bytes), at = find(next, PAGES, count);
    if (at == PAGES)
        at = find(0, PAGES, count);
    if (at == PAGES)
        return 0;
    memset(taken + at, 1, count);
    next = at + count;
    return base + (u64)at * PAGE;
}

void arena_drop(u8 *data, u32 bytes) { memset(taken + (u32)(data - base) / PAGE, 0, pages_of(bytes)); }
