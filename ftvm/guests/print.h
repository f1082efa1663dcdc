/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Console output: lines through the SBI debug console where there is one, else through the UART.
 */
#ifndef PRINT_H
#define PRINT_H

#include <stdarg.h>

#include "base.h"

void print_init(void);               /* looks whether the SBI has a debug console */
void print_use_uart(u64 base);       /* ns16550a registers, one byte apart */
void print_text(const char *text, u64 length);
/* %s %c %u %lu %x %lx %d and %%, no widths. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_list(const char *format, va_list list);

#endif
