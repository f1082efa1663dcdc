/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The way back: short replies are gathered and leave together, long ones leave from where the disk put their data.
 */
#ifndef REPLY_H
#define REPLY_H

#include "job.h"

#define REPLY_COPY_MAX (8U << 10)    /* data of a READ that is gathered: copying it costs less than a call of its own */

void reply(struct job *job);         /* the job's buffer is free afterwards */
void reply_flush(void);

#endif
