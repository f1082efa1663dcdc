/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The one place where this program sleeps.
 */
#ifndef LOOP_H
#define LOOP_H

void loop_wait(void);                /* submits what is in the ring, waits, and takes in what has been done */

#endif
