// SPDX-License-Identifier: GPL-2.0-or-later
/* A program of which two run at once, for Linux: each counts its rounds, and lets the other one run in between. */

long rounds;
long last_pid;

static long call(long number, long argument)
{
    register long a0 __asm__("a0") = argument;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7) : "memory");
    return a0;
}

__attribute__((noinline)) void tick(long pid)
{
    rounds++;
    last_pid = pid;
}

void _start(void)
{
    rounds = 0;  /* so that its page is there */
    long pid = call(172, 0);  /* getpid */
    for (int n = 0; n < 40; n++) {
        tick(pid);
        call(124, 0);  /* sched_yield */
    }
    call(93, rounds);  /* exit */
    for (;;)
        ;
}
