/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Real ways for this driver to die, for tests of the supervisor. Only with the argument `crash=on`:
 *
 *   1  the kernel panics                    4  this program is killed, and it is the first process
 *   2  loop for ever                        5  never answer this request
 *   3  the machine is reset, unasked        6  answer this request with bytes that are no NBD reply
 *
 * The mode is the low byte of the offset of a request of type 0x4654.
 */
#ifndef CRASH_H
#define CRASH_H

#include "job.h"

bool crash(u32 mode, struct job *job);           /* false: no such mode; true: the job has another fate */

#endif
