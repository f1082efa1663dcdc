/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Calls into the supervisor binary interface (RISC-V SBI 2.0): timer, system reset, debug console.
 */
#ifndef SBI_H
#define SBI_H

#include "base.h"

#define SBI_TIMER_OFF (~0UL)

bool sbi_has(u64 extension);
#define SBI_EXT_DBCN 0x4442434EUL
void sbi_set_timer(u64 deadline);                  /* ticks of `rdtime`; SBI_TIMER_OFF disarms */
u64 sbi_console_write(const char *text, u64 length); /* bytes written, 0 if none could be */
void sbi_console_putchar(char c);                  /* legacy extension 1, before the UART is known */
void sbi_shutdown(bool failure) __attribute__((noreturn));

#endif
