/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * translate, the part of a driver VM between the block service and a stock kernel: serves the NBD transmission phase on
 * the virtio-console port "ftvm.block" from any block device.
 *
 *   port -> receive.c -> job.c -> ring.c -> the kernel's block layer and whatever drivers are below the device
 *   port <- reply.c   <- job.c <-
 *
 *   translate [DEVICE] [crash=on]        /dev/vda unless another one is named
 *
 * One thread, one loop: a turn hands everything new to the kernel in one call, which also waits until something has been
 * done or the port has something to read; then replies leave together, and all that has arrived is taken in. It is meant
 * to be the first process of its machine: where it ends, the kernel panics, the machine is reset and the driver restarted.
 */
#include "arena.h"
#include "disk.h"
#include "job.h"
#include "loop.h"
#include "port.h"
#include "receive.h"
#include "reply.h"
#include "ring.h"

#define WATCH 0                      /* the token of the port's watch; those of jobs are their addresses */
enum { FILE_DISK, FILE_PORT };

static bool watching;

static void watch(void)
{
    struct ring_entry *e = watching ? 0 : ring_next(RING_POLL, WATCH);
    if (!e)
        return;
    e->flags = RING_FIXED_FILE;
    e->file = FILE_PORT;
    e->length = RING_POLL_AGAIN;
    e->operation_flags = POLLIN;
    watching = true;
}

void loop_wait(void)
{
    const struct ring_result *r;
    watch();
    ring_enter(true);
    while ((r = ring_result())) {
        struct ring_result result = *r;
        ring_taken();
        if (result.token != WATCH) {
            job_result((struct job *)result.token, result.result);
        } else {
            watching = result.flags & RING_MORE;
            receive_more();
        }
    }
}

int translate_main(u64 count, char **arguments);

int translate_main(u64 count, char **arguments)
{
    const char *device = "/dev/vda";
    bool crash_wanted = false;
    for (u64 i = 1; i < count; i++) {
        if (same(arguments[i], "crash=on"))
            crash_wanted = true;
        else
            device = arguments[i];
    }
    disk_open(device);
    port_open("ftvm.block");
    s32 files[] = {[FILE_DISK] = disk.fd, [FILE_PORT] = port_file()};
    ring_open(files, 2, arena_open(), ARENA_BYTES);
    job_init();
    receive_init(crash_wanted);
    say("ready, %s, %lu sectors", device, disk.size / 512);
    for (;;) {
        receive();
        job_issue();
        reply_flush();                                     /* of requests that needed nothing of the disk */
        loop_wait();
        reply_flush();
    }
}
