/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * From a WRITE's data, as it lies in the receive buffers, to disk requests: nothing is copied but short fragments.
 */
#ifndef WRITE_H
#define WRITE_H

#include "job.h"

/* Takes data of `job` at `at`, in chunk `c`; `left` is what the job still lacks, `length` <= `left` what is there.
 * Returns how much was taken; 0: nothing is free now, try again later. */
u32 write_data(struct job *job, struct chunk *c, u8 *at, u32 length, u32 left);
void write_abandon(void);            /* the job's data will not come: drop what was gathered */

#endif
