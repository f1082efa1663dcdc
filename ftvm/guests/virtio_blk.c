/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One virtqueue. Requests that do not fit into it wait in a list, in order, and follow as descriptors come back.
 */
#include "virtio_blk.h"
#include "trap.h"

#define F_SEG_MAX (1UL << 2)
#define F_RO (1UL << 5)
#define F_FLUSH (1UL << 9)
#define F_DISCARD (1UL << 13)
#define F_WRITE_ZEROES (1UL << 14)

#define CONFIG_CAPACITY 0
#define CONFIG_SEG_MAX 12
#define CONFIG_MAX_DISCARD_SECTORS 36
#define CONFIG_MAX_WRITE_ZEROES_SECTORS 48

#define STATUS_UNSET 0xff

static struct virtio device;
static struct queue queue;
static struct blk_request *waiting, **waiting_end = &waiting;

void blk_open(struct blk *blk)
{
    if (!virtio_find(&device, VIRTIO_ID_BLOCK))
        panic("blk: no virtio block device (version 2)");
    virtio_begin(&device, F_SEG_MAX | F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
    virtio_queue(&device, &queue, 0);
    queue_use_tables(&device, &queue, queue_tables(BLK_SEGMENTS_MAX + 2), BLK_SEGMENTS_MAX + 2);
    blk->sectors = virtio_config64(&device, CONFIG_CAPACITY);
    blk->read_only = device.features & F_RO;
    blk->flush = device.features & F_FLUSH;
    blk->segments_max = 1;
    if (device.features & F_SEG_MAX)
        blk->segments_max = virtio_config32(&device, CONFIG_SEG_MAX);
    blk->segments_max = (u32)min_u64(min_u64(blk->segments_max, BLK_SEGMENTS_MAX), queue.size - 2U);
    if (blk->segments_max == 0)
        panic("blk: the device takes no data segments");
    blk->discard_max = device.features & F_DISCARD ? virtio_config32(&device, CONFIG_MAX_DISCARD_SECTORS) : 0;
    blk->zeroes_max =
        device.features & F_WRITE_ZEROES ? virtio_config32(&device, CONFIG_MAX_WRITE_ZEROES_SECTORS) : 0;
    virtio_ready(&device);
}

static bool add(struct blk_request *r)
{
    struct segment s[BLK_SEGMENTS_MAX + 2];
    u32 n = 0, out = 1;
    s[n++] = (struct segment){&r->header, sizeof r->header};
    if (r->header.kind == BLK_DISCARD || r->header.kind == BLK_WRITE_ZEROES)
        s[n++] = (struct segment){&r->range, sizeof r->range};
    for (u32 i = 0; i < r->segments; i++)
        s[n++] = r->segment[i];
    if (r->header.kind != BLK_READ)
        out = n;
    s[n++] = (struct segment){(void *)&r->status, 1};
    r->status = STATUS_UNSET;
    return queue_add(&queue, s, out, n - out, r);
}

void blk_submit(struct blk_request *request)
{
    if (!waiting && add(request))
        return;
    request->next = 0;
    *waiting_end = request;
    waiting_end = &request->next;
}

static void add_waiting(void)
{
    while (waiting && add(waiting))
        waiting = waiting->next;
    if (!waiting)
        waiting_end = &waiting;
}

struct blk_request *blk_completed(void) { return queue_reap(&queue, 0); }

void blk_kick(void)
{
    add_waiting();
    queue_publish(&queue);
}

bool blk_backlog(void) { return waiting; }
bool blk_arm(void) { return queue_arm(&queue); }
void blk_disarm(void) { queue_disarm(&queue); }
struct queue *blk_queue(void) { return &queue; }
