/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Driver for one named port of a multiport virtio console (virtio 1.2, 5.3): a byte stream each way in the caller's own
 * buffers. Received buffers come back filled, in order, and are posted again when their bytes are no longer needed.
 */
#ifndef VIRTIO_PORT_H
#define VIRTIO_PORT_H

#include "virtio.h"

#define PORT_SEND_SEGMENTS_MAX 64

enum port_change { PORT_NOTHING, PORT_OPENED, PORT_CLOSED };

void port_open(const char *name);                /* panics when there is no multiport console; the name comes later */
enum port_change port_control(void);             /* reads the device's control messages; call it before reading data */
u32 port_buffers(void);                          /* how many buffers the port holds; 0 until it is open */
void port_post(void *buffer, u32 length, void *token);            /* a buffer to receive into */
void *port_receive(u32 *length);                 /* token of the next filled buffer, or 0 */
bool port_send(const struct segment *segments, u32 count, void *token);
void *port_sent(void);                           /* token of the next buffer chain that was sent, or 0 */
u32 port_send_segments(void);                    /* the most that one `port_send` takes */
void port_kick(void);
bool port_arm(bool sending);                     /* `sending`: also wake up for what was sent */
void port_disarm(void);
struct queue *port_queue(u32 i);                 /* 0 receive, 1 transmit: for those who want to wreck them */

#endif
