/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * timer: periodic ticks by the SBI timer, and `wfi` in between. Deadlines are equally spaced from the first one, whatever
 * the delay of a tick; one that is already past ticks at once.
 * Boot arguments: hz=N (1000); ticks=N: power off after N ticks (0: run until stopped).
 */
#include "board.h"
#include "print.h"
#include "sbi.h"
#include "trap.h"

static u64 count, deadline, period;

static void tick(void)
{
    count++;
    deadline += period;
    sbi_set_timer(deadline);
}

void guest_main(void)
{
    u64 hz = argument_number("hz", 1000), ticks = argument_number("ticks", 0);
    if (hz == 0 || hz > board.timebase)
        panic("timer: hz=%lu is not between 1 and the timebase, %lu", hz, board.timebase);
    period = board.timebase / hz;
    print("timer: ready, %lu Hz\n", hz);
    timer_attach(tick);
    deadline = read_time() + period;
    sbi_set_timer(deadline);
    while (ticks == 0 || count < ticks)
        idle();
    sbi_set_timer(SBI_TIMER_OFF);
    print("timer: %lu ticks\n", count);
}
