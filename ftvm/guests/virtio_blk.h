/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Driver for virtio block devices (virtio 1.2, 5.2): requests go in by `blk_submit` in any number, come out of
 * `blk_completed` in the order in which the device finished them. No request is copied: segments are the caller's memory.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "virtio.h"

#define SECTOR 512
#define BLK_SEGMENTS_MAX 32          /* data segments of one request */

enum blk_kind { BLK_READ = 0, BLK_WRITE = 1, BLK_FLUSH = 4, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum blk_status { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPPORTED = 2 };

#define BLK_UNMAP 1                  /* in range.flags: zeroed blocks may be unmapped */

struct blk_request {
    struct blk_request *next;
    struct {
        u32 kind, reserved;
        u64 sector;
    } header;                        /* the device reads it */
    struct {
        u64 sector;
        u32 sectors, flags;
    } range;                         /* of BLK_DISCARD and BLK_WRITE_ZEROES */
    u32 segments;
    struct segment segment[BLK_SEGMENTS_MAX];
    volatile u8 status;              /* enum blk_status, written by the device */
};

struct blk {
    u64 sectors;
    bool read_only, flush;
    u32 segments_max;                /* of one request, at most BLK_SEGMENTS_MAX */
    u32 discard_max, zeroes_max;     /* sectors of one request, 0 when the device cannot do it */
};

void blk_open(struct blk *blk);      /* panics when there is no such device */
void blk_submit(struct blk_request *request);
struct blk_request *blk_completed(void);         /* or 0 */
void blk_kick(void);                 /* shows the device what was submitted since */
bool blk_backlog(void);              /* were more requests submitted than the queue holds? */
bool blk_arm(void);
void blk_disarm(void);
struct queue *blk_queue(void);       /* for those who want to wreck it */

#endif
