/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See crash.h for the modes.
 */
#include "crash.h"
#include "board.h"
#include "print.h"
#include "trap.h"
#include "virtio_port.h"

#define BLOCK 4096
#define MARK "FTVM-POISON-MD="
#define MARK_BYTES 16                /* with the digit */
#define NOWHERE 0x8UL                /* no memory is there, nor will be */

static bool enabled;

void crash_init(void) { enabled = argument_is("crash", "on"); }
bool crash_wanted(void) { return enabled; }

static void overwrite(volatile void *area, u32 length)
{
    static u32 state = 0x2545f491;
    for (u32 i = 0; i < length; i++) {
        state = state * 1664525 + 1013904223;
        ((volatile u8 *)area)[i] = (u8)(state >> 24);
    }
}

static void wreck(struct queue *q)
{
    overwrite(q->descriptors, 16U * q->size);
    overwrite(q->avail, 6 + 2U * q->size);
    overwrite(q->used, 6 + 8U * q->size);
    q->avail[1] = (u16)(q->published + 0x4000);            /* more new chains than the queue has room for */
}

static void wreck_queues(void)
{
    struct queue *queues[] = {blk_queue(), port_queue(0), port_queue(1)};
    for (u32 i = 0; i < 3; i++)
        wreck(queues[i]);
    fence_device();
    for (u32 i = 0; i < 3; i++)
        R32(queues[i]->notify) = queues[i]->index;
    for (;;)
        idle();
}

static void trap_for_ever(void)
{
    csr_write(stvec, NOWHERE);
    ((void (*)(void))NOWHERE)();
}

bool crash(u32 mode, struct job *job)
{
    if (mode < 1 || mode > 6)
        return false;
    print("blockd: told to crash, mode %u\n", mode);
    switch (mode) {
    case 1:
        panic("told to");
    case 2:
        for (;;)
            __asm__ volatile("");
    case 3:
        wreck_queues();
        break;
    case 4:
        trap_for_ever();
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

/* The bytes at `offset` in the piece's data, which may lie in several segments. */
static void peek(const struct piece *p, u32 offset, u8 *to, u32 length)
{
    const struct segment *s = p->request.segment;
    for (; offset >= s->length; s++)
        offset -= s->length;
    for (; length; length--, offset++) {
        for (; offset == s->length; s++)
            offset = 0;
        *to++ = ((u8 *)s->base)[offset];
    }
}

bool crash_if_poisoned(struct piece *p)
{
    u8 start[MARK_BYTES];
    if (!enabled || p->job->fate != REPLY)
        return enabled && p->job->fate != REPLY;
    u32 at = (u32)(-(p->request.header.sector * SECTOR) & (BLOCK - 1));
    for (; at < p->bytes; at += BLOCK) {
        peek(p, at, start, 1);
        if (start[0] != MARK[0])                           /* nearly always: spare the rest */
            continue;
        peek(p, at, start, sizeof start);
        if (memcmp(start, MARK, MARK_BYTES - 1) == 0 && crash(start[MARK_BYTES - 1] - (u32)'0', p->job))
            return true;
    }
    return false;
}
