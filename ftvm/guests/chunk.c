/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Chunks are 64 KiB where RAM allows about a thousand of them, and down to 16 KiB in a 16 MiB machine.
 */
#include "chunk.h"
#include "board.h"
#include "memory.h"
#include "trap.h"

#define CHUNKS_MAX 1024
#define CHUNKS_MIN 256
#define SIZE_MIN (16U << 10)
#define SIZE_MAX_ (64U << 10)
#define SPARE (64U << 10)            /* RAM left to others */

u32 chunk_size;

static struct chunk *free_list;
static u32 free_count, total;

void chunk_init(void)
{
    chunk_size = SIZE_MIN;
    while (chunk_size < SIZE_MAX_ && (u64)chunk_size * CHUNKS_MAX < board.ram_size)
        chunk_size *= 2;
    u64 stride = chunk_size + CHUNK_HEAD;
    u64 room = memory_left() < SPARE ? 0 : memory_left() - SPARE;
    total = (u32)min_u64(room / (stride + sizeof(struct chunk)), CHUNKS_MAX);
    if (total < CHUNKS_MIN)
        panic("chunk: room for %u buffers, %u are needed: the machine needs 16 MiB of RAM", total, CHUNKS_MIN);
    struct chunk *chunks = memory_take(sizeof *chunks * total, 8);
    u8 *memory = memory_take_raw(stride * total, 64);
    for (u32 i = total; i-- > 0;) {
        chunks[i].data = memory + i * stride + CHUNK_HEAD;
        chunks[i].next = free_list;
        free_list = &chunks[i];
    }
    free_count = total;
}

u32 chunk_total(void) { return total; }
u32 chunk_free_count(void) { return free_count; }

struct chunk *chunk_take(void)
{
    struct chunk *c = free_list;
    if (c) {
        free_list = c->next;
        free_count--;
        c->next = 0;
        c->references = 1;
    }
    return c;
}

void chunk_hold(struct chunk *c) { c->references++; }

void chunk_drop(struct chunk *c)
{
    if (--c->references)
        return;
    c->next = free_list;
    free_list = c;
    free_count++;
}
