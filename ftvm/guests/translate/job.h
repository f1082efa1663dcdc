/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A job is one NBD request on its way through the kernel:
 *
 *   READ                    its blocks into the arena; the reply carries them
 *   WRITE                   its data is received into the arena (receive.c), then written
 *   TRIM, WRITE_ZEROES      one fallocate: a hole, or zeroes where the disk has no holes
 *   FLUSH, and FUA of TRIM and WRITE_ZEROES at last     an fdatasync; a WRITE with FUA is durable by itself
 *
 * A READ or WRITE is issued in pieces, so that the kernel need not split it. When nothing of a job is in flight and
 * nothing is left to issue, its reply is due (reply.h). A WRITE of parts of blocks (on a disk with blocks longer than 512
 * bytes) is done alone, at once: two of them could share a block.
 */
#ifndef JOB_H
#define JOB_H

#include "../nbd.h"
#include "linux.h"

#define JOBS 256

enum fate { REPLY, REPLY_GARBAGE, NO_REPLY };

struct job {
    struct job *next;
    u64 cookie;                      /* as it came, byte for byte */
    u64 offset;                      /* bytes, like `length` */
    u32 length;
    u16 command, flags;
    enum nbd_error error;
    enum fate fate;
    u8 *buffer, *data;               /* a run of the arena, and where in it the byte at `offset` lies */
    u32 buffer_bytes;
    u64 from, to, at;                /* the blocks to be moved, and up to where they have been issued */
    u64 moved;                       /* bytes that completed pieces report */
    u32 pieces;                      /* in flight */
    u32 mode;                        /* of the fallocate */
    bool ranging, syncing;           /* a fallocate, an fdatasync are still to be issued */
    bool again;                      /* a piece was put off by the kernel */
};

void job_init(void);
struct job *job_take(void);          /* blank, or 0 when too many are on their way */
void job_release(struct job *job);
enum nbd_error job_check(const struct job *job);           /* against the protocol and the disk */
bool job_prepare(struct job *job);   /* the buffer that it needs; false: none is free, try again later */
void job_start(struct job *job);     /* a WRITE's data is there */
void job_finish(struct job *job);    /* its reply is due */
void job_result(struct job *job, s32 result);              /* from the ring */
void job_issue(void);                /* what the ring had no room for */
u32 job_in_flight(void);             /* entries in the ring or about to be */

#endif
