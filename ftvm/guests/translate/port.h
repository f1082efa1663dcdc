/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The virtio-console port: requests come out of it, replies go into it. The kernel's driver keeps 4 KiB a buffer on the
 * way in and takes 32 KiB a call on the way out, and every call out is a notification of the device.
 */
#ifndef PORT_H
#define PORT_H

#include "linux.h"

#define PORT_SEND_MAX (32U << 10)

void port_open(const char *name);                /* waits until it is there */
s32 port_file(void);
u32 port_receive(struct iovec *into, u32 count); /* bytes that are there now, perhaps 0 */
void port_send(const u8 *data, u64 length);      /* all of it */

#endif
