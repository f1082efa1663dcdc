// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The device windows, at the addresses of QEMU's `virt` machine. Accesses go up to the machine with their absolute
 * address; a running digest of all of them (address, size, direction, value) is part of the hart's digest.
 *
 *   0x00100000  power and reset      0x0c000000  interrupt controller
 *   0x00101000  clock                0x10000000  UART, then virtio slots 0 to 7 at 0x1000 each from 0x10001000
 *
 * The engine splits an access of 8 bytes into two of 4, and a misaligned one into aligned loads or single bytes.
 */
#include "hart.h"

static const struct window windows[] = {
    {0x00100000, 0x2000},
    {0x0c000000, 0x600000},
    {0x10000000, 0x9000},
};
enum { WINDOWS = sizeof windows / sizeof *windows };

const struct window *mmio_window(unsigned index)
{
    return index < WINDOWS ? &windows[index] : NULL;
}

bool mmio_covers(uint64_t address)
{
    for (int i = 0; i < WINDOWS; i++)
        if (address - windows[i].base < windows[i].size)
            return true;
    return false;
}

static uint64_t read_at(struct hart *h, uint64_t address, unsigned size)
{
    uint64_t value = h->up.mmio_read ? h->up.mmio_read(h, address, size) : 0;
    if (size < 8)
        value &= (UINT64_C(1) << (8 * size)) - 1;
    h->mmio_digest = mix(mix(h->mmio_digest, address << 8 | size << 1), value);
    h->count.mmio_reads++;
    return value;
}

static void write_at(struct hart *h, uint64_t address, unsigned size, uint64_t value)
{
    h->mmio_digest = mix(mix(h->mmio_digest, address << 8 | size << 1 | 1), value);
    h->count.mmio_writes++;
    if (h->up.mmio_write)
        h->up.mmio_write(h, address, size, value);
}

/* The engine tells the offset in a window only, so each window has callbacks of its own. */
#define WINDOW_CALLBACKS(n)                                                                              \
    static uint64_t read_##n(uc_engine *uc, uint64_t offset, unsigned size, void *hart)                   \
    {                                                                                                    \
        return read_at(hart, windows[n].base + offset, size);                                            \
    }                                                                                                    \
    static void write_##n(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *hart)      \
    {                                                                                                    \
        write_at(hart, windows[n].base + offset, size, value);                                           \
    }
WINDOW_CALLBACKS(0)
WINDOW_CALLBACKS(1)
WINDOW_CALLBACKS(2)

bool mmio_map(struct hart *h)
{
    static const uc_cb_mmio_read_t reads[WINDOWS] = {read_0, read_1, read_2};
    static const uc_cb_mmio_write_t writes[WINDOWS] = {write_0, write_1, write_2};
    for (int i = 0; i < WINDOWS; i++)
        if (uc_mmio_map(h->uc, windows[i].base, windows[i].size, reads[i], h, writes[i], h) != UC_ERR_OK)
            return false;
    return true;
}
