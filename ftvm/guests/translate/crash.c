/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See crash.h for the modes.
 */
#include "crash.h"

#define REBOOT_MAGIC 0xfee1deadU
#define REBOOT_MAGIC2 672274793U
#define REBOOT_RESTART 0x1234567U

static void panic(void)
{
    s64 fd = open_file("/proc/sysrq-trigger", O_WRONLY);
    CALL3(SYS_WRITE, fd, "c", 1);
    fail("the kernel would not panic");
}

bool crash(u32 mode, struct job *job)
{
    if (mode < 1 || mode > 6)
        return false;
    say("told to crash, mode %u", mode);
    switch (mode) {
    case 1:
        panic();
        break;
    case 2:
        for (;;)
            __asm__ volatile("");
    case 3:
        CALL3(SYS_REBOOT, REBOOT_MAGIC, REBOOT_MAGIC2, REBOOT_RESTART);
        break;
    case 4:
        __asm__ volatile(".word 0");
        break;
    case 5:
        job->fate = NO_REPLY;
        break;
    case 6:
        job->fate = REPLY_GARBAGE;
        break;
    }
    return true;
}
