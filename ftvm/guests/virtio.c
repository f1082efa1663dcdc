/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Registers are named as in virtio 1.2, table 4.1. The rings are shared with the device, so they are read and written
 * as volatile and ordered by fences; what the device writes there is checked before it is used as an index.
 */
#include "virtio.h"
#include "board.h"
#include "memory.h"
#include "trap.h"

#define MAGIC 0x000
#define VERSION 0x004
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SEL 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define INTERRUPT_STATUS 0x060
#define INTERRUPT_ACK 0x064
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define CONFIG_GENERATION 0x0fc
#define CONFIG 0x100

#define MAGIC_VALUE 0x74726976
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 64
#define INTERRUPT_CONFIG 2

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define NO_INTERRUPT 1
#define NO_NOTIFY 1

#define REG(offset) R32(device->base + (offset))

static volatile u16 *used_event(struct queue *q) { return q->avail + 2 + q->size; }
static volatile u16 *avail_event(struct queue *q) { return q->used + 2 + 4 * q->size; }

bool virtio_find(struct virtio *device, u32 id)
{
    for (u32 i = 0; i < board.virtio_slots; i++) {
        device->base = board.virtio[i].base;
        device->irq = board.virtio[i].irq;
        if (REG(MAGIC) == MAGIC_VALUE && REG(VERSION) == 2 && REG(DEVICE_ID) == id)
            return true;
    }
    return false;
}

void virtio_begin(struct virtio *device, u64 wanted)
{
    REG(STATUS) = 0;
    while (REG(STATUS) != 0) {
    }
    REG(STATUS) = STATUS_ACKNOWLEDGE;
    REG(STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    REG(DEVICE_FEATURES_SEL) = 1;
    u64 offered = (u64)REG(DEVICE_FEATURES) << 32;
    REG(DEVICE_FEATURES_SEL) = 0;
    offered |= REG(DEVICE_FEATURES);
    device->features = offered & (wanted | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    REG(DRIVER_FEATURES_SEL) = 1;
    REG(DRIVER_FEATURES) = (u32)(device->features >> 32);
    REG(DRIVER_FEATURES_SEL) = 0;
    REG(DRIVER_FEATURES) = (u32)device->features;
    REG(STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    if (!(device->features & VIRTIO_F_VERSION_1) || !(REG(STATUS) & STATUS_FEATURES_OK))
        panic("virtio: the device at %lx refuses features %lx of %lx", device->base, device->features, offered);
}

static void set_address(struct virtio *device, u32 offset, volatile void *address)
{
    REG(offset) = (u32)(u64)address;
    REG(offset + 4) = (u32)((u64)address >> 32);
}

void virtio_queue(struct virtio *device, struct queue *q, u32 index)
{
    REG(QUEUE_SEL) = index;
    u32 size = REG(QUEUE_NUM_MAX);
    if (size == 0)
        panic("virtio: the device at %lx has no queue %u", device->base, index);
    if (size > QUEUE_SIZE_MAX)
        size = QUEUE_SIZE_MAX;
    while (size & (size - 1))                              /* split rings want a power of two */
        size &= size - 1;
    q->notify = device->base + QUEUE_NOTIFY;
    q->index = (u16)index;
    q->size = (u16)size;
    q->event_idx = device->features & VIRTIO_F_EVENT_IDX;
    q->chain_max = (u16)size;
    q->free_count = (u16)size;
    q->descriptors = memory_take(16UL * size, 16);
    q->avail = memory_take(6 + 2UL * size, 4);
    q->used = memory_take(6 + 8UL * size, 4);
    q->tokens = memory_take(8UL * size, 8);
    for (u32 i = 0; i < size; i++)
        q->descriptors[i].next = (u16)(i + 1);
    queue_disarm(q);
    REG(QUEUE_NUM) = size;
    set_address(device, QUEUE_DESC, q->descriptors);
    set_address(device, QUEUE_DRIVER, q->avail);
    set_address(device, QUEUE_DEVICE, q->used);
    REG(QUEUE_READY) = 1;
}

struct ring_descriptor *queue_tables(u32 chain_max)
{
    return memory_take_raw(sizeof(struct ring_descriptor) * chain_max * QUEUE_SIZE_MAX, 16);
}

void queue_use_tables(struct virtio *device, struct queue *q, struct ring_descriptor *tables, u32 chain_max)
{
    if (!(device->features & VIRTIO_F_INDIRECT_DESC))
        return;
    q->indirect = true;
    q->tables = tables;
    q->chain_max = (u16)min_u64(chain_max, q->size);       /* a chain may not be longer than its queue */
}

static void interrupt(void *argument)
{
    struct virtio *device = argument;
    u32 status = REG(INTERRUPT_STATUS);
    REG(INTERRUPT_ACK) = status;
    if ((status & INTERRUPT_CONFIG) && (REG(STATUS) & STATUS_NEEDS_RESET))
        panic("virtio: the device at %lx needs a reset", device->base);
}

void virtio_ready(struct virtio *device)
{
    irq_attach(device->irq, interrupt, device);
    REG(STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
}

u32 virtio_config32(struct virtio *device, u32 offset) { return REG(CONFIG + offset); }
u8 virtio_config8(struct virtio *device, u32 offset) { return R8(device->base + CONFIG + offset); }

u64 virtio_config64(struct virtio *device, u32 offset)
{
    u32 generation;
    u64 value;
    do {
        generation = REG(CONFIG_GENERATION);
        value = REG(CONFIG + offset) | (u64)REG(CONFIG + offset + 4) << 32;
    } while (generation != REG(CONFIG_GENERATION));
    return value;
}

static void fill(volatile struct ring_descriptor *d, const struct segment *s, u16 flags)
{
    d->address = (u64)s->base;
    d->length = s->length;
    d->flags = flags;
}

static void add_indirect(struct queue *q, const struct segment *segments, u32 out, u32 count)
{
    volatile struct ring_descriptor *head = &q->descriptors[q->free];
    struct ring_descriptor *table = q->tables + (u64)q->free * q->chain_max;
    for (u32 i = 0; i < count; i++) {
        fill(&table[i], &segments[i], (i < out ? 0 : DESC_WRITE) | (i + 1 < count ? DESC_NEXT : 0));
        table[i].next = (u16)(i + 1);
    }
    head->address = (u64)table;
    head->length = 16 * count;
    head->flags = DESC_INDIRECT;
    q->free = head->next;
    q->free_count--;
}

static void add_chain(struct queue *q, const struct segment *segments, u32 out, u32 count)
{
    u16 at = q->free;
    for (u32 i = 0; i < count; i++) {
        volatile struct ring_descriptor *d = &q->descriptors[at];
        fill(d, &segments[i], (i < out ? 0 : DESC_WRITE) | (i + 1 < count ? DESC_NEXT : 0));
        at = d->next;                                      /* the free list's order is the chain's */
    }
    q->free = at;
    q->free_count -= (u16)count;
}

bool queue_add(struct queue *q, const struct segment *segments, u32 out, u32 in, void *token)
{
    u32 count = out + in;
    bool indirect = q->indirect && count > 1;
    if ((indirect ? 1 : count) > q->free_count)
        return false;
    u16 head = q->free;
    if (indirect)
        add_indirect(q, segments, out, count);
    else
        add_chain(q, segments, out, count);
    q->tokens[head] = token;
    q->avail[2 + q->added % q->size] = head;
    q->added++;
    return true;
}

void queue_publish(struct queue *q)
{
    u16 before = q->published, now = q->added;
    if (before == now)
        return;
    fence_memory();
    q->avail[1] = now;
    q->published = now;
    fence_device();
    if (q->event_idx) {
        if ((u16)(now - *avail_event(q) - 1) >= (u16)(now - before))
            return;
    } else if (q->used[0] & NO_NOTIFY) {
        return;
    }
    R32(q->notify) = q->index;
}

static void give_back(struct queue *q, u16 head)
{
    u16 last = head, count = 1;
    if (!(q->descriptors[head].flags & DESC_INDIRECT))
        for (; q->descriptors[last].flags & DESC_NEXT; count++)
            last = q->descriptors[last].next;
    q->descriptors[last].next = q->free;
    q->free = head;
    q->free_count += count;
}

void *queue_reap(struct queue *q, u32 *written)
{
    if (q->reaped == q->used[1])
        return 0;
    fence_memory();
    volatile u32 *entry = (volatile u32 *)(q->used + 2) + 2UL * (q->reaped % q->size);
    u32 id = entry[0];
    if (id >= q->size || !q->tokens[id])
        panic("virtio: queue %u: the device used descriptor %u, which is not in flight", q->index, id);
    void *token = q->tokens[id];
    if (written)
        *written = entry[1];
    q->tokens[id] = 0;
    q->reaped++;
    give_back(q, (u16)id);
    return token;
}

bool queue_arm(struct queue *q)
{
    if (q->event_idx)
        *used_event(q) = q->reaped;
    else
        q->avail[0] = 0;
    fence_memory();
    return q->reaped != q->used[1];
}

void queue_disarm(struct queue *q)
{
    if (q->event_idx)
        *used_event(q) = (u16)(q->reaped - 1);             /* passed already: the device will not pass it soon */
    else
        q->avail[0] = NO_INTERRUPT;
}
