/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One ecall wrapper, and the few calls the guests make. Numbers are those of the SBI 2.0 specification.
 */
#include "sbi.h"

#define EXT_BASE 0x10UL
#define BASE_PROBE 3
#define EXT_TIME 0x54494D45UL
#define EXT_SRST 0x53525354UL
#define EXT_LEGACY_PUTCHAR 1UL
#define SRST_SHUTDOWN 0
#define SRST_NO_REASON 0
#define SRST_SYSTEM_FAILURE 1

struct answer {
    u64 error, value;
};

static struct answer call(u64 extension, u64 function, u64 x, u64 y, u64 z)
{
    register u64 a0 __asm__("a0") = x;
    register u64 a1 __asm__("a1") = y;
    register u64 a2 __asm__("a2") = z;
    register u64 a6 __asm__("a6") = function;
    register u64 a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return (struct answer){a0, a1};
}

bool sbi_has(u64 extension)
{
    struct answer r = call(EXT_BASE, BASE_PROBE, extension, 0, 0);
    return r.error == 0 && r.value != 0;
}

void sbi_set_timer(u64 deadline) { call(EXT_TIME, 0, deadline, 0, 0); }

u64 sbi_console_write(const char *text, u64 length)
{
    struct answer r = call(SBI_EXT_DBCN, 0, length, (u64)text, 0);
    return r.error ? 0 : r.value;
}

void sbi_console_putchar(char c) { call(EXT_LEGACY_PUTCHAR, 0, (u8)c, 0, 0); }

void sbi_shutdown(bool failure)
{
    call(EXT_SRST, 0, SRST_SHUTDOWN, failure ? SRST_SYSTEM_FAILURE : SRST_NO_REASON, 0);
    for (;;)
        __asm__ volatile("wfi");
}
