/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The pool of buffers that everything in blockd moves in: a chunk is first a receive buffer, then the source of disk
 * writes, or it takes a disk read and is sent. It starts with room for one NBD header, so that a request and a reply of
 * up to `chunk_size` bytes of data each lie in one piece.
 *
 *   data - CHUNK_HEAD                 data                                   data + chunk_size
 *   | room for a header               | data, 64-byte aligned                |
 *
 * Chunks are counted references; the free list is last in, first out, so that few pages get dirty.
 */
#ifndef CHUNK_H
#define CHUNK_H

#include "base.h"

#define CHUNK_HEAD 64

struct chunk {
    struct chunk *next;              /* free list, or the list of its owner */
    u8 *data;
    u32 references;
};

extern u32 chunk_size;

void chunk_init(void);               /* takes most of the RAM that is left, as at most CHUNKS_MAX chunks */
u32 chunk_total(void);
u32 chunk_free_count(void);
struct chunk *chunk_take(void);      /* with one reference, or 0 */
void chunk_hold(struct chunk *c);
void chunk_drop(struct chunk *c);

#endif
