/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * From the device tree to `struct board`, and the way from start.S to the guest's main function. The same image so runs on
 * ftvm's machine and on QEMU's `virt`. Bus addresses are taken as they are: every bus on these boards has empty `ranges`.
 */
#include "board.h"
#include "fdt.h"
#include "memory.h"
#include "print.h"
#include "trap.h"

#define S_EXTERNAL_INTERRUPT 9

struct board board;

void guest_start(u64 hart, const void *tree);

static u64 address_of(const struct fdt_node *n) { return fdt_cells(n->reg, 0, n->address_cells); }

static void add_virtio(u64 base, u32 irq)
{
    u32 i = board.virtio_slots;
    if (i == VIRTIO_SLOTS_MAX)
        return;
    for (; i && board.virtio[i - 1].base > base; i--)
        board.virtio[i] = board.virtio[i - 1];
    board.virtio[i].base = base;
    board.virtio[i].irq = irq;
    board.virtio_slots++;
}

static void add_plic(const struct fdt_node *n)
{
    board.plic = address_of(n);
    /* Pairs (hart's controller, interrupt): the position of S-mode's external interrupt is our context. */
    for (u32 pair = 0; 8 * pair < n->interrupts_extended.length; pair++)
        if (fdt_cells(n->interrupts_extended, 2 * pair + 1, 1) == S_EXTERNAL_INTERRUPT) {
            board.plic_context = pair;
            return;
        }
}

static void visit(const struct fdt_node *n)
{
    u32 irq = (u32)fdt_cells(n->interrupts, 0, 1);
    if (n->timebase.data && !board.timebase)
        board.timebase = fdt_cells(n->timebase, 0, n->timebase.length / 4);
    if (n->bootargs.data && same(n->name, "chosen"))
        memcpy(board.arguments, n->bootargs.data, min_u64(n->bootargs.length, sizeof board.arguments - 1));
    if (fdt_lists(n->device_type, "memory") && !board.ram_size) {
        board.ram_base = address_of(n);
        board.ram_size = fdt_cells(n->reg, n->address_cells, n->size_cells);
    }
    if (fdt_lists(n->compatible, "ns16550a") && !board.uart) {
        board.uart = address_of(n);
        board.uart_irq = irq;
    }
    if (fdt_lists(n->compatible, "riscv,plic0") || fdt_lists(n->compatible, "sifive,plic-1.0.0"))
        add_plic(n);
    if (fdt_lists(n->compatible, "virtio,mmio"))
        add_virtio(address_of(n), irq);
}

void guest_start(u64 hart, const void *tree)
{
    (void)hart;
    print_init();
    trap_init();
    if (!fdt_walk(tree, visit))
        panic("board: no readable device tree at %lx", (u64)tree);
    if (board.uart)
        print_use_uart(board.uart);
    memory_init(board.ram_base, board.ram_size);
    if (board.plic)
        irq_init(board.plic, board.plic_context);
    guest_main();
    power_off();
}

const char *argument_text(const char *name)
{
    size_t length = strlen(name);
    const char *at = board.arguments;
    while (*at) {
        if (memcmp(at, name, length) == 0 && at[length] == '=')
            return at + length + 1;
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return 0;
}

u64 argument_number(const char *name, u64 otherwise)
{
    const char *at = argument_text(name);
    u64 value = 0;
    if (!at || *at < '0' || *at > '9')
        return otherwise;
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (u64)(*at - '0');
    return value;
}

bool argument_is(const char *name, const char *value)
{
    const char *at = argument_text(name);
    size_t length = strlen(value);
    return at && memcmp(at, value, length) == 0 && (at[length] == 0 || at[length] == ' ');
}
