/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A job is one NBD request on its way; a piece is one disk request that serves part of a job.
 *
 *   READ                    chunks are reserved, pieces issued, the reply carries the chunks
 *   WRITE                   pieces are made from the receive buffers as the data arrives (write.h)
 *   TRIM, WRITE_ZEROES      pieces are issued as large as the device takes them
 *   FLUSH, and FUA at last  one piece of its own, after all others are complete
 *
 * A job is done when it has been issued whole and none of its pieces is in flight; then its reply is due (reply.h).
 */
#ifndef JOB_H
#define JOB_H

#include "chunk.h"
#include "nbd.h"
#include "virtio_blk.h"

enum fate { REPLY, REPLY_GARBAGE, NO_REPLY };

struct job {
    struct job *next;
    u64 cookie, offset;              /* bytes */
    u32 length;
    u16 command, flags;
    u32 generation;                  /* of the port's connection */
    enum nbd_error error;
    enum fate fate;
    bool receiving;                  /* a WRITE whose data has not all arrived */
    bool flush_due;                  /* a flush is still to be issued */
    bool listed;                     /* waits in the list of those with something to issue */
    bool header_sent;
    u32 cursor;                      /* bytes issued */
    u32 pieces;                      /* in flight */
    struct chunk *chunks, *reading;  /* READ: its data; the chunk that the next piece starts with */
};

struct piece {
    struct blk_request request;      /* first, so that a completed request is its piece */
    struct piece *next;
    struct job *job;
    u32 bytes;
    struct chunk *held[BLK_SEGMENTS_MAX];        /* WRITE: what the segments lie in */
    struct chunk *bounce;            /* WRITE: where short segments are gathered */
    u32 bounced;
};

extern struct blk disk;

void job_init(void);
struct job *job_take(void);          /* blank, or 0 when too many are on their way */
void job_release(struct job *job);   /* the chunks too */
enum nbd_error job_check(struct job *job);       /* against the protocol and the disk's size */
bool job_start(struct job *job);     /* anything but a WRITE; false: nothing done, try again later */
void job_end(struct job *job);       /* call after anything changed: is it done? */
void job_issue(void);                /* issues what can be issued now */
bool job_waiting(void);              /* is something left to be issued? */
bool job_reap(void);                 /* takes in completed pieces; were there any? */
struct job *job_done(void);          /* the job whose reply is due next, or 0; it stays until job_shift */
void job_shift(void);

struct piece *piece_take(struct job *job, enum blk_kind kind);    /* or 0 */
void piece_release(struct piece *p);
void piece_submit(struct piece *p);

#endif
