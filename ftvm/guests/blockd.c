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

static bool control(void)
{
    enum port_change change = port_control();
    if (change == PORT_OPENED)
        print("blockd: ready, %lu sectors\n", disk.sectors);
    if (change == PORT_CLOSED)
        stream_reset();
    return change != PORT_NOTHING;
}

static bool turn(void)
{
    bool did = control();
    did |= reply_reap();
    did |= job_reap();
    did |= stream_serve();
    did |= job_issue();
    blk_kick();
    did |= job_reap();                                     /* many a disk is done before the notification returns */
    did |= reply_flush(stream_generation());
    stream_post();
    port_kick();
    return did;
}

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
        bool sending = reply_stalled() || stream_stalled();
        if (!(blk_arm() | port_arm(sending)))
            idle();
    }
}
