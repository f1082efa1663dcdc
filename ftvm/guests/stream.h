/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The port's incoming byte stream, cut into NBD requests, and the connection it belongs to.
 */
#ifndef STREAM_H
#define STREAM_H

#include "job.h"

void stream_init(void);
void stream_serve(void);             /* starts every request that can be started */
void stream_post(void);              /* gives the port buffers to receive into */
bool stream_stalled(void);           /* a request waits for something that is in use */
bool stream_hungry(void);            /* the port lacks buffers to receive into */
void stream_reset(void);             /* the host side closed the port: what was received in part is void */
u32 stream_generation(void);         /* counts connections, so that replies to an old one are dropped */

#endif
