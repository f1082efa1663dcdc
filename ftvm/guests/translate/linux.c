/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A message is gathered and written whole, so that the kernel's own messages do not cut it. `fail` ends the program: as
 * the first process of the machine it takes the kernel with it, and that is what is wanted of a driver that cannot go on.
 */
#include "linux.h"
#include <stdarg.h>

#define LINE 256
#define AT_FDCWD (-100)

typedef u64 __attribute__((aligned(1), may_alias)) loose64;

static struct {
    char text[LINE];
    u32 length;
} line;

s64 open_file(const char *path, u32 flags) { return CALL4(SYS_OPENAT, AT_FDCWD, path, flags | O_CLOEXEC, 0); }

void sleep_ms(u32 ms)
{
    u64 span[2] = {ms / 1000, ms % 1000 * 1000000UL};
    CALL3(SYS_NANOSLEEP, span, 0, 0);
}

void *map_memory(u64 length)
{
    s64 address = linux_call(SYS_MMAP, 0, length, 3, 0x8022, (u64)-1, 0);  /* private, anonymous, populated */
    if (address < 0)
        fail("%lu bytes of memory: error %d", length, (int)-address);
    return (void *)address;
}

static void put(char c)
{
    if (line.length < LINE)
        line.text[line.length++] = c;
}

static void put_text(const char *s)
{
    while (*s)
        put(*s++);
}

static void put_number(u64 value)
{
    char digits[20];
    u32 n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n)
        put(digits[--n]);
}

static void put_signed(int value)
{
    if (value < 0)
        put('-');
    put_number((u64)(value < 0 ? -(s64)value : value));
}

static void put_item(char kind, bool wide, va_list *items)
{
    if (kind == 's')
        put_text(va_arg(*items, const char *));
    else if (kind == 'd')
        put_signed(va_arg(*items, int));
    else if (kind == 'u')
        put_number(wide ? va_arg(*items, u64) : va_arg(*items, u32));
}

static void put_line(const char *format, va_list *items)
{
    line.length = 0;
    put_text("translate: ");
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        bool wide = format[1] == 'l';
        format += wide ? 2 : 1;
        put_item(*format, wide, items);
    }
    put('\n');
    CALL3(SYS_WRITE, 2, line.text, line.length);
}

void say(const char *format, ...)
{
    va_list items;
    va_start(items, format);
    put_line(format, &items);
    va_end(items);
}

void fail(const char *format, ...)
{
    va_list items;
    va_start(items, format);
    put_line(format, &items);
    va_end(items);
    for (;;)
        CALL3(SYS_EXIT_GROUP, 1, 0, 0);
}

void copy(void *to, const void *from, u64 length)
{
    u8 *t = to;
    const u8 *f = from;
    for (; length >= 32; length -= 32, t += 32, f += 32) {
        u64 a = *(const loose64 *)f, b = *(const loose64 *)(f + 8);
        u64 c = *(const loose64 *)(f + 16), d = *(const loose64 *)(f + 24);
        *(loose64 *)t = a;
        *(loose64 *)(t + 8) = b;
        *(loose64 *)(t + 16) = c;
        *(loose64 *)(t + 24) = d;
    }
    while (length--)
        *t++ = *f++;
}
