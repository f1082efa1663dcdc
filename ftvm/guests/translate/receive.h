/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The way in: requests are cut out of the port's bytes and started.
 */
#ifndef RECEIVE_H
#define RECEIVE_H

#include "../base.h"

void receive_init(bool crash_wanted);            /* obey vendor requests that tell to die: crash.h */
void receive_more(void);                         /* the port has something */
void receive(void);                              /* all that is there, as far as there are jobs and buffers for it */

#endif
