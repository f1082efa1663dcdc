/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The way back: replies of done jobs, gathered into as few buffer chains as possible, straight from the chunks that the
 * disk filled.
 */
#ifndef REPLY_H
#define REPLY_H

#include "job.h"

void reply_init(void);
bool reply_flush(u32 generation);    /* sends what is due and belongs to this connection; were jobs released? */
void reply_reap(void);               /* frees what was sent */
bool reply_stalled(void);            /* replies wait for buffers that are being sent */

#endif
