/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The machine as the device tree tells it, and the boot arguments. Filled in once at start, read-only afterwards.
 */
#ifndef BOARD_H
#define BOARD_H

#include "base.h"

#define VIRTIO_SLOTS_MAX 32

struct board {
    u64 ram_base, ram_size;
    u64 timebase;                    /* ticks of `rdtime` per second */
    u64 uart;
    u32 uart_irq;
    u64 plic;
    u32 plic_context;                /* of this hart's S-mode */
    u32 virtio_slots;
    struct {
        u64 base;
        u32 irq;
    } virtio[VIRTIO_SLOTS_MAX];      /* ascending addresses */
    char arguments[1024];
};

extern struct board board;

/* A boot argument "name=value": the value, ended by a space or the string's end, or `otherwise`. */
u64 argument_number(const char *name, u64 otherwise);
bool argument_is(const char *name, const char *value);
const char *argument_text(const char *name);     /* not terminated at the space; 0 when absent */

void guest_main(void);               /* each guest's own */

#endif
