/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The few system calls that this program makes, by their numbers (RISC-V has the kernel's generic table), and small help
 * around them. A negative result is an error number, as the kernel returns it: there is no errno.
 */
#ifndef LINUX_H
#define LINUX_H

#include "../base.h"

enum {
    SYS_IOCTL = 29, SYS_OPENAT = 56, SYS_CLOSE = 57, SYS_GETDENTS64 = 61, SYS_READ = 63, SYS_WRITE = 64, SYS_READV = 65,
    SYS_PREAD64 = 67, SYS_PWRITE64 = 68, SYS_PPOLL = 73, SYS_FDATASYNC = 83, SYS_EXIT_GROUP = 94, SYS_NANOSLEEP = 101,
    SYS_REBOOT = 142, SYS_MMAP = 222, SYS_URING_SETUP = 425, SYS_URING_ENTER = 426, SYS_URING_REGISTER = 427,
};

enum { EPERM = 1, EINTR = 4, EIO = 5, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EINVAL = 22, ENOSPC = 28, EROFS = 30,
       EOPNOTSUPP = 95 };

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NONBLOCK = 04000, O_DIRECT = 040000, O_NOATIME = 01000000,
       O_CLOEXEC = 02000000 };
enum { POLLIN = 1, POLLOUT = 4 };

struct iovec {
    void *base;
    u64 length;
};

static inline s64 linux_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    register u64 a0 __asm__("a0") = a;
    register u64 a1 __asm__("a1") = b;
    register u64 a2 __asm__("a2") = c;
    register u64 a3 __asm__("a3") = d;
    register u64 a4 __asm__("a4") = e;
    register u64 a5 __asm__("a5") = f;
    register u64 a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
    return (s64)a0;
}

#define CALL3(n, a, b, c) linux_call(n, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) linux_call(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0, 0)

s64 open_file(const char *path, u32 flags);
void sleep_ms(u32 ms);
void *map_memory(u64 length);                    /* anonymous, zeroed, in memory at once */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));        /* %s, %u, %d, %lu; to the console */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Quick also where source and target are not aligned alike, which Linux promises to work. */
void copy(void *to, const void *from, u64 length);

#endif
