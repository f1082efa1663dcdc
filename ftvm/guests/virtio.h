/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * virtio over memory-mapped registers, version 2 (virtio 1.2, 4.2), and the driver's half of a split virtqueue (2.7).
 *
 * A queue is polled while there is work and armed for an interrupt only before the guest goes idle: `queue_arm` asks for
 * one and tells whether something was used in the meantime. So under load neither side disturbs the other.
 */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "base.h"

#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3

#define VIRTIO_F_INDIRECT_DESC (1UL << 28)
#define VIRTIO_F_EVENT_IDX (1UL << 29)
#define VIRTIO_F_VERSION_1 (1UL << 32)

#define QUEUE_SIZE_MAX 128

struct virtio {
    u64 base;
    u32 irq;
    u64 features;                    /* negotiated */
};

struct segment {
    void *base;
    u32 length;
};

struct ring_descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
};

struct queue {
    u64 notify;                      /* address of the device's notify register */
    u16 index, size;
    bool event_idx, indirect;
    u16 free, free_count;            /* list of unused descriptors, through their `next` */
    u16 published, added;            /* avail index the device sees; the one it will see */
    u16 reaped;                      /* used entries taken so far */
    u16 chain_max;                   /* the most descriptors of one chain */
    volatile struct ring_descriptor *descriptors;
    volatile u16 *avail;             /* flags, index, ring[size], used_event */
    volatile u16 *used;              /* flags, index, then {u32 id, u32 length}[size], avail_event */
    struct ring_descriptor *tables;  /* `size` indirect tables of `chain_max` */
    void **tokens;                   /* by head descriptor */
};

bool virtio_find(struct virtio *device, u32 id);                  /* the first slot with such a device */
void virtio_begin(struct virtio *device, u64 wanted);             /* reset, negotiate; panics when refused */
void virtio_queue(struct virtio *device, struct queue *q, u32 index);
void virtio_ready(struct virtio *device);                         /* DRIVER_OK, interrupts on */
u32 virtio_config32(struct virtio *device, u32 offset);
u8 virtio_config8(struct virtio *device, u32 offset);
u64 virtio_config64(struct virtio *device, u32 offset);

/* Long chains take one descriptor each, in tables that the queue is given, if the device has learnt that. */
struct ring_descriptor *queue_tables(u32 chain_max);              /* memory for one queue of any size */
void queue_use_tables(struct virtio *device, struct queue *q, struct ring_descriptor *tables, u32 chain_max);

/* Queues a chain of `out` segments that the device reads, then `in` that it writes. False when it does not fit now. */
bool queue_add(struct queue *q, const struct segment *segments, u32 out, u32 in, void *token);
void queue_publish(struct queue *q);                              /* shows what was added, notifies if wanted */
void *queue_reap(struct queue *q, u32 *written);                  /* token of the next used chain, or 0 */
bool queue_arm(struct queue *q);                                  /* true: something is used already, do not sleep */
void queue_disarm(struct queue *q);                               /* no interrupts until it is armed again */

#endif
