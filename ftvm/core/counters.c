// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cycle, instret and time: cycle and instret read the clock, time reads guest time.
 *
 * `time` traps in the engine as an illegal instruction and is emulated there. `cycle` and `instret` would read the
 * host's time stamp counter, and no control bit prevents it. So every fresh translation is looked through before it runs:
 * if it holds such a read, the engine is stopped at the entry of this block, its translation is dropped, and an
 * instruction hook is put on that address; the next translation of it calls the hook. A hook may outlive its
 * instruction or see another address space: it looks at the instruction again and lets anything else run.
 *
 * Such a block has to be translated with the engine's checks for an exit, or the instruction would be executed behind
 * its hook; everything else is translated without (checks.c). Which way a block is translated must depend on its code
 * alone: every block is translated without checks first, and once more with them if it then holds such an
 * instruction. A block that came to be translated with checks in the place of the one they were meant for is translated
 * again without.
 *
 * In user mode scounteren decides (privileged specification 4.1.5); after reset it allows all three, as firmware does.
 * The spec's mcounteren always allows.
 *
 * Instructions that the engine fails to refuse (insn.c) are found in the same way, and refused by the hook; and writes of
 * fcsr where FS is not dirty yet.
 *
 * So are instructions that may write satp. The engine keeps its TLB when satp changes (but for its
 * address space number), and what it keeps depends on the host's clock: so the TLB is flushed behind each of them.
 */
#include "hart.h"

#include <string.h>

#define HOOKS_MAX 1024  /* more hooked addresses: start over, so that a guest cannot make translation ever slower */

enum { CSR_CYCLE = 0xc00, CSR_TIME = 0xc01 };

static void set_rd(struct hart *h, uint32_t insn, uint64_t value)
{
    if (INSN_RD(insn))
        reg_set(h, UC_RISCV_REG_X0 + (int)INSN_RD(insn), value);
}

static bool legal(struct hart *h, uint32_t insn, unsigned csr)
{
    if (INSN_RS1(insn))
        return false;
    if (reg_get(h, UC_RISCV_REG_PRIV) != USER)
        return true;
    return csr_get(h, UC_RISCV_REG_SCOUNTEREN) >> (csr - CSR_CYCLE) & 1;
}

/* An illegal instruction was met at pc: if it is a legal read of time, do it. The trap itself is in the clock already. */
bool counters_read_time(struct hart *h, uint32_t insn, uint64_t pc)
{
    unsigned csr;
    if (!insn_reads_counter(insn, &csr) || csr != CSR_TIME || !legal(h, insn, csr))
        return false;
    set_rd(h, insn, hart_time(h));
    h->count.time_reads++;
    h->barren_traps = 0;
    return true;
}

static uint64_t float_status(struct hart *h)
{
    struct view view;
    fill_view(h, &view);
    return view.status & SSTATUS_FS;
}

/* A write of fcsr makes FS dirty, but the engine forgets SD: let it find FS dirty already. */
static bool makes_dirty(struct hart *h, uint32_t insn)
{
    if (!insn_writes_fcsr(insn))
        return false;
    uint64_t status = float_status(h);
    return status && status != SSTATUS_FS;
}

/* csrrs and csrrc with no bit to set or clear leave FS alone. */
static void make_dirty(struct hart *h, uint32_t insn)
{
    unsigned function = (insn >> 12) & 7;
    if ((function == 2 || function == 3) && !reg_get(h, UC_RISCV_REG_X0 + (int)INSN_RS1(insn)))
        return;
    csr_set(h, UC_RISCV_REG_SSTATUS, csr_get(h, UC_RISCV_REG_SSTATUS) | SSTATUS_FS);
}

/* Does the hook stand in for this instruction? */
static bool is_replaced(struct hart *h, uint32_t insn)
{
    unsigned csr;
    return (insn_reads_counter(insn, &csr) && csr != CSR_TIME) || insn_is_refused(insn)
        || (insn_evades_fp(insn) && !float_status(h));
}

/* Is this an instruction to put a hook on? */
static bool is_site(struct hart *h, uint32_t insn)
{
    return insn_touches_satp(insn) || is_replaced(h, insn) || makes_dirty(h, insn);
}

static void on_instruction(uc_engine *uc, uint64_t address, uint32_t size, void *hart)
{
    struct hart *h = hart;
    uint32_t insn;
    unsigned csr;
    if (debug_pauses_at(h, address))
        return;
    if (!fill_fetch(h, address, &insn) || !is_site(h, insn)) {
        h->count.counter_misses++;
        return;
    }
    if (insn_touches_satp(insn)) {
        h->satp_written = true;  /* or about to be: such an instruction ends its block */
        clock_kick(h);
        return;
    }
    if (insn_writes_fcsr(insn)) {
        make_dirty(h, insn);
        return;
    }
    clock_settle(h, address);
    if (!insn_reads_counter(insn, &csr) || !legal(h, insn, csr)) {
        clock_count_trap(h);
        trap_enter(h, CAUSE_ILLEGAL, insn, address);
        return;
    }
    set_rd(h, insn, h->clock);
    h->clock += 4;
    h->count.counter_reads++;
    reg_set(h, UC_RISCV_REG_PC, address + 4);
}

static bool known_site(const struct hart *h, uint64_t va)
{
    for (size_t i = 0; i < h->counter_sites.count; i++)
        if (h->counter_sites.items[i] == va)
            return true;
    return false;
}

/* The page a block's translation is registered on: for its removal. */
static uint64_t page_or_none(struct hart *h, uint64_t va)
{
    uint64_t index;
    return fill_page_of(h, va, &index) ? index : NEVER;
}

/* Notes the sites in a block that are new. Returns whether one's hook does what the engine must not: see above. */
static bool look_through(struct hart *h, const uc_tb *block)
{
    uint32_t insn;
    bool replaces = false;
    for (uint64_t va = block->pc; va < block->pc + block->size && fill_fetch(h, va, &insn); va += insn_size(insn)) {
        if (!is_site(h, insn))
            continue;
        replaces = replaces || is_replaced(h, insn);
        if (!known_site(h, va))
            list_push(&h->fresh_sites, va);
    }
    return replaces;
}

void counters_on_translated(uc_engine *uc, uc_tb *now, uc_tb *before, void *hart)
{
    struct hart *h = hart;
    bool without = *h->no_checks, replaces = look_through(h, now);
    uint64_t page = page_or_none(h, now->pc);
    bool as_meant = without ? !replaces : h->checked.on && h->checked.pc == now->pc && h->checked.page == page;
    if (debug_runs(h, now->pc))
        as_meant = !without;
    h->count.translations++;
    h->checked.on = without && replaces;
    h->checked.pc = now->pc;
    h->checked.page = page;
    checks_leave_out(h, !h->checked.on && !h->debug.inside);
    if (as_meant && !h->fresh_sites.count)
        return;
    h->retranslate = true;
    h->fresh_page[0] = page;
    h->fresh_page[1] = page_or_none(h, now->pc + now->size - 1);
    clock_retire(h);
    h->stopped = true;
    h->stopped_at = now->pc;
    uc_emu_stop(uc);
}

static void forget_hooks(struct hart *h)
{
    h->removing = true;  /* deleting a hook looks up its address: let it find anything but the guest's page tables */
    for (size_t i = 0; i < h->counter_hooks.count; i++)
        uc_hook_del(h->uc, h->counter_hooks.items[i]);
    h->removing = false;
    h->counter_hooks.count = h->counter_sites.count = 0;
    pages_drop_all(h);
}

static void hook_site(struct hart *h, uint64_t va)
{
    uc_hook hook;
    if (uc_hook_add(h->uc, &hook, UC_HOOK_CODE, on_instruction, h, va, va) != UC_ERR_OK
        || !list_push(&h->counter_hooks, hook) || !list_push(&h->counter_sites, va))
        hart_fail(h, "out of memory for a hook on a counter read at 0x%llx", (unsigned long long)va);
    h->count.counter_hooks++;
}

/* Outside the engine: hook what counters_on_translated found, and drop the translation that is not as it should be. */
void counters_hook_fresh(struct hart *h)
{
    if (!h->retranslate)
        return;
    h->retranslate = false;
    if (h->counter_sites.count + h->fresh_sites.count > HOOKS_MAX)
        forget_hooks(h);
    for (size_t i = 0; i < h->fresh_sites.count; i++)
        hook_site(h, h->fresh_sites.items[i]);
    h->fresh_sites.count = 0;
    for (int i = 0; i < 2; i++)
        if (h->fresh_page[i] != NEVER)
            pages_drop_code(h, h->fresh_page[i]);
    pages_flush_tlb(h);
}
