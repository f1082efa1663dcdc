/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Queue 0 receives, queue 1 transmits. There are as many buffers as one queue holds, so either queue always has room.
 * Header and frame lie in one buffer, which VIRTIO_F_VERSION_1 allows. No offloads are negotiated.
 */
#include "virtio_net.h"
#include "memory.h"
#include "trap.h"

#define F_MAC (1UL << 5)
#define RECEIVE 0
#define TRANSMIT 1

static struct virtio device;
static struct queue receive, transmit;
static u32 sending, buffers;

void net_open(u8 mac[NET_MAC_BYTES])
{
    if (!virtio_find(&device, VIRTIO_ID_NET))
        panic("net: no virtio network device (version 2)");
    virtio_begin(&device, F_MAC);
    if (!(device.features & F_MAC))
        panic("net: the device has no address");
    for (u32 i = 0; i < NET_MAC_BYTES; i++)
        mac[i] = virtio_config8(&device, i);
    virtio_queue(&device, &receive, RECEIVE);
    virtio_queue(&device, &transmit, TRANSMIT);
    virtio_ready(&device);
    buffers = (u32)min_u64(receive.size, transmit.size);
    for (u32 i = 0; i < buffers; i++)
        net_release(memory_take(sizeof(struct net_buffer), 8));
    queue_publish(&receive);
}

struct net_buffer *net_receive(void)
{
    u32 written;
    struct net_buffer *b = queue_reap(&receive, &written);
    if (b)
        b->length = written > sizeof b->header ? (u32)min_u64(written - sizeof b->header, NET_FRAME_MAX) : 0;
    return b;
}

void net_release(struct net_buffer *b)
{
    struct segment s = {b, offsetof(struct net_buffer, length)};
    if (!queue_add(&receive, &s, 0, 1, b))
        panic("net: the receive queue is full");
}

void net_send(struct net_buffer *b)
{
    struct segment s = {b, sizeof b->header + b->length};
    memset(&b->header, 0, sizeof b->header);
    if (!queue_add(&transmit, &s, 1, 0, b))
        panic("net: the transmit queue is full");
    sending++;
}

bool net_reap(void)
{
    struct net_buffer *b;
    bool did = false;
    for (; (b = queue_reap(&transmit, 0)); did = true) {
        sending--;
        net_release(b);
    }
    return did;
}

void net_kick(void)
{
    queue_publish(&transmit);
    queue_publish(&receive);
}

bool net_arm(void)
{
    bool more = queue_arm(&receive);
    if (sending > buffers / 2)                             /* else sent buffers can wait for the next frame */
        more |= queue_arm(&transmit);
    return more;
}

void net_disarm(void)
{
    queue_disarm(&receive);
    queue_disarm(&transmit);
}
