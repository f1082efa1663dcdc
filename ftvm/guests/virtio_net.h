/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Driver for virtio network devices (virtio 1.2, 5.1). A buffer that was received can be changed and sent as it is; it
 * returns to the receive queue when it has been sent or released.
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include "virtio.h"

#define NET_FRAME_MAX 1514
#define NET_MAC_BYTES 6

struct net_header {                  /* virtio_net_hdr, all zero without offloads */
    u8 flags, gso_type;
    u16 header_length, gso_size, checksum_start, checksum_offset, buffers;
};

struct net_buffer {
    struct net_header header;
    u8 frame[NET_FRAME_MAX];
    u32 length;                      /* of the frame */
};

void net_open(u8 mac[NET_MAC_BYTES]);            /* panics when there is no such device; gives its address */
struct net_buffer *net_receive(void);            /* or 0 */
void net_send(struct net_buffer *b);             /* its first `length` bytes */
void net_release(struct net_buffer *b);          /* not needed: receive into it again */
bool net_reap(void);                             /* takes back what was sent; did it do something? */
void net_kick(void);
bool net_arm(void);
void net_disarm(void);

#endif
