/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * blockd, the default driver VM: serves the NBD transmission phase on the virtio-console port "ftvm.block" with its own
 * virtio-blk driver.
 *
 *   port -> stream.c -> job.c, write.c -> virtio_blk.c -> disk
 *   port <- reply.c  <- job.c          <-
 *
 * One loop turns these stages as long as one of them moves something, and sleeps otherwise; no timer runs, nothing is
 * polled while idle. Everything that many requests share happens once a turn: one notification a queue, one chain of
 * replies. Boot arguments: `crash=on` (crash.h).
 */
#include "board.h"
#include "chunk.h"
#include "crash.h"
#include "job.h"
#include "print.h"
#include "reply.h"
#include "stream.h"
#include "trap.h"
#include "virtio_port.h"

static void control(void)
{
    enum port_change change = port_control();
    if (change == PORT_OPENED)
        print("blockd: ready, %lu sectors\n", disk.sectors);
    if (change == PORT_CLOSED)
        stream_reset();
}

/* Every stage once; true when it is to be called again before sleeping. */
static bool turn(void)
{
    control();
    reply_reap();
    job_reap();
    stream_serve();
    job_issue();
    blk_kick();
    bool freed = job_reap();                               /* many a disk is done before the notification returns */
    freed |= reply_flush(stream_generation());
    stream_post();
    port_kick();
    return freed && (stream_stalled() || job_waiting() || blk_backlog());
}

/* Only who waits for what is being sent needs to hear when it has been. */
static bool waits_for_sending(void) { return reply_stalled() || stream_stalled() || stream_hungry(); }

void guest_main(void)
{
    crash_init();
    job_init();
    port_open("ftvm.block");
    reply_init();
    chunk_init();
    stream_init();
    for (;;) {
        blk_disarm();
        port_disarm();
        while (turn()) {
        }
        if (!(blk_arm() | port_arm(waits_for_sending())))
            idle();
    }
}
