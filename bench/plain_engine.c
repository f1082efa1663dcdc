// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A stock kernel on the engine as it comes, without any hook that a block, a memory access or a TLB fill calls: what a
 * guest costs when nobody keeps a clock, coherent translations or a log. For the benchmark to compare with.
 *
 *   plain-engine [+]SPINS MEMORY_BYTES ENTRY DTB_ADDRESS ADDRESS FILE [ADDRESS FILE]...
 *
 * It is not a machine to use. Guest time is the host's. Interrupts come when the guest traps anyway (a call to the
 * firmware, a read of time, a page fault) or waits. A kernel also spins, without a trap, until its tick has counted on:
 * a run with a hook on every block adds the blocks in which it did so to the file SPINS (with a + before it); a run without
 * the + has hooks on these few blocks only. Stores through an alias of translated code go unnoticed, so a program now and
 * then runs as another; when the kernel then does not switch itself off in order, the exit code says so (0: in order;
 * 1: anything else; 2: usage).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unicorn/unicorn.h>

#define RAM_BASE UINT64_C(0x80000000)
#define NEVER UINT64_MAX
#define UART_IRQ 10
#define MAGIC UINT64_C(0x1122334455667788)
#define SPINS_MAX 16   /* each hook costs at every hooked block */
#define LOOK_EVERY 256
#define OVERDUE 40000        /* looks that found the timer due: so long without a trap is no ordinary code */
#define BADADDR_BEHIND_PC 32  /* where the faulting address lies in a saved context */
enum { SUPERVISOR = 1, MACHINE = 3 };
enum { CAUSE_ILLEGAL = 2, CAUSE_BREAKPOINT = 3, CAUSE_ECALL = 8 };
enum { SIE = 1 << 1, SPIE = 1 << 5, SPP = 1 << 8, STIP = 1 << 5, SEIP = 1 << 9 };
enum { EXT_TIME = 0x54494d45, EXT_RESET = 0x53525354, EXT_BASE = 0x10 };

static uc_engine *uc;
static uint8_t *ram;
static uint64_t ram_size, timer = NEVER;
static uc_context *context;
static const uint64_t *bad_address;
static FILE *spins;
static bool over, in_order, breakpoint;
static uint8_t uart_ier, uart_lcr, uart_mcr;
static bool sent;
static uint32_t priority[64];
static uint64_t enabled, claimed;

static uint64_t get(int id)
{
    uint64_t value = 0;
    uc_reg_read(uc, id, &value);
    return value;
}

static void set(int id, uint64_t value)
{
    uc_reg_write(uc, id, &value);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec) / 100;
}

static bool uart_rings(void)
{
    return sent && uart_ier & 2;
}

static bool external(void)
{
    return uart_rings() && enabled >> UART_IRQ & 1 && !(claimed >> UART_IRQ & 1) && priority[UART_IRQ];
}

static void update_interrupts(void)
{
    uint64_t lines = (now() >= timer ? STIP : 0) | (external() ? SEIP : 0), priv = get(UC_RISCV_REG_PRIV);
    set(UC_RISCV_REG_PRIV, MACHINE);
    uint64_t mip = get(UC_RISCV_REG_MIP);
    if ((mip & (STIP | SEIP)) != lines)
        set(UC_RISCV_REG_MIP, (mip & ~(uint64_t)(STIP | SEIP)) | lines);
    set(UC_RISCV_REG_PRIV, priv);
}

static void trap(uint64_t cause, uint64_t value, uint64_t pc)
{
    uint64_t priv = get(UC_RISCV_REG_PRIV);
    set(UC_RISCV_REG_PRIV, SUPERVISOR);
    uint64_t status = get(UC_RISCV_REG_SSTATUS);
    uint64_t entered = status & ~(uint64_t)(SIE | SPIE | SPP);
    set(UC_RISCV_REG_SSTATUS, entered | (status & SIE ? SPIE : 0) | (priv == SUPERVISOR ? SPP : 0));
    set(UC_RISCV_REG_SEPC, pc);
    set(UC_RISCV_REG_SCAUSE, cause);
    set(UC_RISCV_REG_STVAL, value);
    set(UC_RISCV_REG_PC, get(UC_RISCV_REG_STVEC) & ~UINT64_C(3));
}

static void firmware(void)
{
    uint64_t extension = get(UC_RISCV_REG_X17), function = get(UC_RISCV_REG_X16), value = 0;
    int64_t error = 0;
    if (extension == EXT_TIME) {
        timer = get(UC_RISCV_REG_X10);
    } else if (extension == EXT_RESET) {
        over = true;
        in_order = get(UC_RISCV_REG_X10) == 0 && get(UC_RISCV_REG_X11) == 0;
        uc_emu_stop(uc);
    } else if (extension == EXT_BASE && function == 0) {
        value = 2u << 24;
    } else if (extension == EXT_BASE && function == 3) {
        uint64_t asked = get(UC_RISCV_REG_X10);
        value = asked == EXT_TIME || asked == EXT_RESET || asked == EXT_BASE;
    } else if (extension != EXT_BASE) {
        error = -2;
    }
    set(UC_RISCV_REG_X10, (uint64_t)error);
    set(UC_RISCV_REG_X11, value);
}

/* Sv39, Sv48 or Sv57, as far as fetching an instruction needs it. */
static bool physical(uint64_t va, uint64_t *pa)
{
    uint64_t priv = get(UC_RISCV_REG_PRIV);
    set(UC_RISCV_REG_PRIV, SUPERVISOR);
    uint64_t satp = get(UC_RISCV_REG_SATP), base = (satp & ((UINT64_C(1) << 44) - 1)) << 12;
    set(UC_RISCV_REG_PRIV, priv);
    *pa = va;
    for (int shift = 30 + 9 * ((int)(satp >> 60) - 8); satp >> 60 && shift >= 12; shift -= 9) {
        uint64_t at = base + (va >> shift & 511) * 8 - RAM_BASE, entry;
        if (at >= ram_size)
            return false;
        memcpy(&entry, ram + at, sizeof entry);
        base = (entry >> 10 & ((UINT64_C(1) << 44) - 1)) << 12;
        if (!(entry & 1))
            return false;
        if (entry & 0xe) {
            uint64_t inside = (UINT64_C(1) << shift) - 1;
            *pa = (base & ~inside) | (va & inside);
            return *pa - RAM_BASE < ram_size;
        }
    }
    return *pa - RAM_BASE < ram_size;
}

static void illegal(uint64_t pc)
{
    uint16_t halves[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        uint64_t pa;
        if (physical(pc + 2 * (uint64_t)i, &pa))
            memcpy(&halves[i], ram + (pa - RAM_BASE), sizeof halves[i]);
    }
    uint32_t insn = halves[0] | (uint32_t)halves[1] << 16, rd = insn >> 7 & 31;
    if ((insn & 0xfffff07f) != 0xc0102073) /* rdtime */
        trap(CAUSE_ILLEGAL, insn, pc);
    else if (rd)
        set(UC_RISCV_REG_X0 + (int)rd, now());
}

static void on_exception(uc_engine *engine, uint32_t cause, void *unused)
{
    uint64_t pc = get(UC_RISCV_REG_PC) - 4;
    if (cause == CAUSE_ECALL && get(UC_RISCV_REG_PRIV) == SUPERVISOR) {
        firmware();
    } else if (cause == CAUSE_ILLEGAL) {
        illegal(pc);
    } else {
        uc_context_save(uc, context);
        trap(cause, cause == CAUSE_ECALL ? 0 : *bad_address, pc);
    }
    update_interrupts();
}

static bool on_breakpoint(uc_engine *engine, void *unused)
{
    uint64_t pc = get(UC_RISCV_REG_PC);
    breakpoint = true;
    trap(CAUSE_BREAKPOINT, pc, pc);
    return true;
}

static uint64_t uart_read(uc_engine *engine, uint64_t offset, unsigned size, void *unused)
{
    switch (offset) {
    case 1:
        return uart_lcr & 0x80 ? 0 : uart_ier;
    case 2:
        if (!uart_rings())
            return 0xc1;
        sent = false;
        return 0xc2;
    case 3:
        return uart_lcr;
    case 4:
        return uart_mcr;
    case 5:
        return 0x60;
    case 6:
        return 0xb0;
    default:
        return 0;
    }
}

static void uart_write(uc_engine *engine, uint64_t offset, unsigned size, uint64_t value, void *unused)
{
    if (offset == 0 && !(uart_lcr & 0x80)) {
        putchar((int)(value & 0xff));
        sent = true;
    } else if (offset == 1 && !(uart_lcr & 0x80)) {
        sent = sent || (value & 2 && !(uart_ier & 2));
        uart_ier = value & 15;
    } else if (offset == 3) {
        uart_lcr = (uint8_t)value;
    } else if (offset == 4) {
        uart_mcr = (uint8_t)value;
    }
}

static uint64_t plic_read(uc_engine *engine, uint64_t offset, unsigned size, void *unused)
{
    if (offset < 0x100)
        return priority[offset / 4];
    if (offset == 0x2080)
        return (uint32_t)enabled;
    if (offset != 0x201004 || !external())
        return 0;
    claimed |= UINT64_C(1) << UART_IRQ;
    return UART_IRQ;
}

static void plic_write(uc_engine *engine, uint64_t offset, unsigned size, uint64_t value, void *unused)
{
    if (offset < 0x100)
        priority[offset / 4] = (uint32_t)value;
    else if (offset == 0x2080)
        enabled = (uint32_t)value;
    else if (offset == 0x201004)
        claimed &= ~(UINT64_C(1) << (value & 63));
}

static uint64_t nothing_read(uc_engine *engine, uint64_t offset, unsigned size, void *unused)
{
    return 0;
}

static void nothing_write(uc_engine *engine, uint64_t offset, unsigned size, uint64_t value, void *unused)
{
}

static bool start(void)
{
    uc_hook hook;
    ram = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED || uc_open(UC_ARCH_RISCV, UC_MODE_RISCV64, &uc)
        || uc_ctl_set_tcg_buffer_size(uc, 64u << 20) || uc_mem_map_ptr(uc, RAM_BASE, ram_size, UC_PROT_ALL, ram)
        || uc_mmio_map(uc, 0x00100000, 0x2000, nothing_read, NULL, nothing_write, NULL)
        || uc_mmio_map(uc, 0x0c000000, 0x600000, plic_read, NULL, plic_write, NULL)
        || uc_mmio_map(uc, 0x10000000, 0x1000, uart_read, NULL, uart_write, NULL)
        || uc_mmio_map(uc, 0x10001000, 0x8000, nothing_read, NULL, nothing_write, NULL) || uc_ctl_exits_enable(uc)
        || uc_hook_add(uc, &hook, UC_HOOK_INTR, (void *)on_exception, NULL, 1, 0)
        || uc_hook_add(uc, &hook, UC_HOOK_INSN_INVALID, (void *)on_breakpoint, NULL, 1, 0)
        || uc_context_alloc(uc, &context))
        return false;
    set(UC_RISCV_REG_PC, MAGIC);
    uc_context_save(uc, context);
    for (size_t at = 0; at + BADADDR_BEHIND_PC + 8 <= uc_context_size(uc) && !bad_address; at += 8)
        if (*(const uint64_t *)((const uint8_t *)context + at) == MAGIC)
            bad_address = (const uint64_t *)((const uint8_t *)context + at + BADADDR_BEHIND_PC);
    set(UC_RISCV_REG_MIDELEG, 0x222);
    set(UC_RISCV_REG_MCOUNTEREN, 7);
    return bad_address != NULL;
}

static bool load(uint64_t address, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || address - RAM_BASE >= ram_size)
        return false;
    fread(ram + (address - RAM_BASE), 1, ram_size - (address - RAM_BASE), file);
    return fclose(file) == 0;
}

static void wait_for_interrupt(void)
{
    uint64_t time = now();
    if (external() || timer <= time)
        return;
    if (timer - time > 100000000) {  /* nothing for ten seconds, and nobody to wake it */
        over = true;
        return;
    }
    struct timespec rest = {(time_t)((timer - time) / 10000000), (long)((timer - time) % 10000000 * 100)};
    nanosleep(&rest, NULL);
}

/* At the entry of a block in which the kernel is known to spin. */
static void on_spin(uc_engine *engine, uint64_t address, uint32_t size, void *unused)
{
    static unsigned entered;
    if (++entered % LOOK_EVERY == 0 && now() >= timer)
        uc_emu_stop(uc);
}

/* In the first run, at the entry of every block; it looks now and then only, since time is dear. */
static void on_block(uc_engine *engine, uint64_t address, uint32_t size, void *unused)
{
    static uint64_t known[SPINS_MAX];
    static unsigned count, entered, overdue;
    if (++entered % LOOK_EVERY)
        return;
    overdue = timer == NEVER || now() < timer ? 0 : overdue + 1;
    if (overdue < OVERDUE)
        return;
    overdue = 0;
    uc_emu_stop(uc);
    for (unsigned i = 0; i < count; i++)
        if (known[i] == address)
            return;
    if (count < SPINS_MAX) {
        known[count++] = address;
        fprintf(spins, "0x%llx\n", (unsigned long long)address);
    }
}

static bool hook_spins(const char *path)
{
    uc_hook hook;
    unsigned long long address;
    if (path[0] == '+')
        return (spins = fopen(path + 1, "a")) && !uc_hook_add(uc, &hook, UC_HOOK_BLOCK, (void *)on_block, NULL, 1, 0);
    spins = fopen(path, "r");
    while (spins && fscanf(spins, "%llx", &address) == 1)
        if (uc_hook_add(uc, &hook, UC_HOOK_BLOCK, (void *)on_spin, NULL, address, address))
            return false;
    return spins != NULL;
}

static void run(void)
{
    while (!over) {
        update_interrupts();
        breakpoint = false;
        uc_err error = uc_emu_start(uc, get(UC_RISCV_REG_PC), 0, 0, 0);
        if (over || (error == UC_ERR_EXCEPTION && breakpoint))
            continue;
        if (error) {
            fprintf(stderr, "the engine gave up: %s\n", uc_strerror(error));
            return;
        }
        wait_for_interrupt();
    }
}

int main(int count, char **arguments)
{
    if (count < 7 || count % 2 == 0)
        return 2;
    ram_size = strtoull(arguments[2], NULL, 0);
    if (!start() || !hook_spins(arguments[1]))
        return 2;
    for (int i = 5; i + 1 < count; i += 2)
        if (!load(strtoull(arguments[i], NULL, 0), arguments[i + 1]))
            return 2;
    set(UC_RISCV_REG_PRIV, SUPERVISOR);
    set(UC_RISCV_REG_X10, 0);
    set(UC_RISCV_REG_X11, strtoull(arguments[4], NULL, 0));
    set(UC_RISCV_REG_PC, strtoull(arguments[3], NULL, 0));
    run();
    fflush(stdout);
    fclose(spins);
    return in_order ? 0 : 1;
}
