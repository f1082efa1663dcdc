/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Text is gathered in a small buffer, so that a line costs one SBI call. Three ways out, the best that is known is used:
 * SBI debug console, UART (transmitter polled, a byte at a time), legacy SBI putchar.
 */
#include "print.h"
#include "sbi.h"

#define UART_THR 0
#define UART_LSR 5
#define LSR_THRE 0x20

static bool have_dbcn;
static u64 uart;

static struct {
    char text[128];
    u32 length;
} out;

void print_init(void) { have_dbcn = sbi_has(SBI_EXT_DBCN); }
void print_use_uart(u64 base) { uart = base; }

static void put_one(char c)
{
    if (!uart) {
        sbi_console_putchar(c);
        return;
    }
    while (!(R8(uart + UART_LSR) & LSR_THRE)) {
    }
    R8(uart + UART_THR) = (u8)c;
}

void print_text(const char *text, u64 length)
{
    while (have_dbcn && length) {
        u64 n = sbi_console_write(text, length);
        if (n == 0)
            break;
        text += n;
        length -= n;
    }
    for (; length; length--)
        put_one(*text++);
}

static void flush(void)
{
    print_text(out.text, out.length);
    out.length = 0;
}

static void put(char c)
{
    if (out.length == sizeof out.text)
        flush();
    out.text[out.length++] = c;
}

static void put_string(const char *s)
{
    while (*s)
        put(*s++);
}

static void put_number(u64 value, u32 radix)
{
    char digits[21];
    u32 n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % radix];
        value /= radix;
    } while (value);
    while (n)
        put(digits[--n]);
}

static void put_signed(int value)
{
    if (value < 0)
        put('-');
    put_number(value < 0 ? -(u64)value : (u64)value, 10);
}

void print_list(const char *f, va_list list)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        bool wide = f[1] == 'l';
        f += wide ? 2 : 1;
        switch (*f) {
        case 's': put_string(va_arg(list, const char *)); break;
        case 'c': put((char)va_arg(list, int)); break;
        case 'd': put_signed(va_arg(list, int)); break;
        case 'u': put_number(wide ? va_arg(list, u64) : va_arg(list, u32), 10); break;
        case 'x': put_number(wide ? va_arg(list, u64) : va_arg(list, u32), 16); break;
        default: put(*f);
        }
    }
    flush();
}

void print(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print_list(format, list);
    va_end(list);
}
