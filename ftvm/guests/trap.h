/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Traps, interrupts and the end of the guest.
 *
 * Interrupts are taken in one place only: inside `idle`. Everything else runs with them off, so that no handler ever
 * races with the code it serves, and a wake-up that comes between the last look and `wfi` is not lost: `wfi` returns at
 * once when an enabled interrupt is pending, whether or not it may be taken.
 */
#ifndef TRAP_H
#define TRAP_H

#include "base.h"

typedef void (*irq_handler)(void *argument);

void trap_init(void);
void irq_init(u64 plic_base, u32 context);
void irq_attach(u32 irq, irq_handler handler, void *argument);
void timer_attach(void (*handler)(void));

void idle(void);                                 /* sleeps until an interrupt, and runs its handler */
void panic(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void power_off(void) __attribute__((noreturn));

#endif
