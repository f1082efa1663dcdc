/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One io_uring: what is to be done goes into the submission queue, one system call hands all of it over and waits, what
 * has been done comes out of the completion queue. Completions are taken in by this one thread only, inside that call
 * (SINGLE_ISSUER, DEFER_TASKRUN), so that many of them cost one switch into the kernel.
 */
#ifndef RING_H
#define RING_H

#include "../base.h"

#define RING_ENTRIES 256

/* linux/io_uring.h: struct io_uring_sqe and io_uring_cqe, with the names of their unions that are used here. */
struct ring_entry {
    u8 opcode, flags;
    u16 priority;
    s32 file;
    u64 offset, address;
    u32 length, operation_flags;
    u64 token;
    u16 buffer, personality;
    s32 more;
    u64 more_address, unused;
};

struct ring_result {
    u64 token;
    s32 result;
    u32 flags;
};

enum ring_opcode { RING_FSYNC = 3, RING_READ_FIXED = 4, RING_WRITE_FIXED = 5, RING_POLL = 6, RING_FALLOCATE = 17 };

#define RING_FIXED_FILE 1            /* ring_entry.flags: `file` is an index into those of ring_open */
#define RING_POLL_AGAIN 1            /* ring_entry.length of a RING_POLL: report more than once */
#define RING_MORE 2                  /* ring_result.flags: the same token comes again */
#define RING_DATASYNC 1              /* ring_entry.operation_flags of a RING_FSYNC */
#define RING_DSYNC 2                 /* ring_entry.operation_flags of a RING_WRITE_FIXED: durable when it is done */

void ring_open(const s32 *files, u32 file_count, void *buffer, u64 length);     /* the one fixed buffer is number 0 */
struct ring_entry *ring_next(u8 opcode, u64 token);        /* zeroed but for these; 0 when the queue is full */
u32 ring_room(void);                                       /* entries that ring_next will give */
void ring_enter(bool wait);                                /* submits; waits for a result when told to */
const struct ring_result *ring_result(void);               /* the next one, valid until ring_taken; or 0 */
void ring_taken(void);

#endif
