/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Real ways for this driver to die, for tests of the supervisor. Only when the boot arguments have `crash=on`:
 *
 *   1  panic
 *   2  loop for ever with interrupts off
 *   3  overwrite the virtqueues of both devices with garbage, then notify them
 *   4  jump to an invalid address while stvec is invalid too: traps without end
 *   5  never answer this request
 *   6  answer this request with bytes that are no NBD reply
 *
 * The mode is the low byte of the offset of a request of type 0x4654, or the digit behind "FTVM-POISON-MD=" at the start
 * of any block of 4 KiB (by its place on the disk) that is read or is to be written; a poisoned write stays undone.
 */
#ifndef CRASH_H
#define CRASH_H

#include "job.h"

void crash_init(void);
bool crash_wanted(void);
bool crash_if_poisoned(struct piece *p);         /* true: the piece's job is given another fate, or we do not return */
bool crash(u32 mode, struct job *job);           /* false: no such mode */

#endif
