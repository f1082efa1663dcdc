// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Trap entry into supervisor mode, in software: the engine delivers interrupts itself but synchronous exceptions never.
 *
 *   what                       how the engine tells                       pc then
 *   ecall, illegal, misaligned UC_HOOK_INTR                               faulting pc + 4, also for short instructions
 *   ebreak                     UC_HOOK_INSN_INVALID, and an error that    exact
 *                              stays set although the hook handled it
 *   page and access faults     the fill hook refuses; uc_emu_start ends   exact, but the fault is to be dropped when an
 *                                                                         interrupt was taken first
 *
 * An instruction that begins on one page and ends on the next faults, when the second page cannot be fetched, at the entry
 * of its block, since blocks are translated as a whole, and nothing of the block has been executed yet. Then the next slice
 * is told to end at that instruction, and the fault met again there is exact.
 *
 * An illegal short instruction has no length in the engine, so a block of nothing else ends before it begins: at the start
 * of a page, the engine looks for the page before. A fetch fault of that page means this.
 */
#include "hart.h"

#include <string.h>

void trap_enter(struct hart *h, uint64_t cause, uint64_t tval, uint64_t epc)
{
    uint64_t priv = reg_get(h, UC_RISCV_REG_PRIV);
    reg_set(h, UC_RISCV_REG_PRIV, SUPERVISOR);
    uint64_t status = reg_get(h, UC_RISCV_REG_SSTATUS), pc = reg_get(h, UC_RISCV_REG_STVEC) & ~UINT64_C(3);
    uint64_t spie = status & SSTATUS_SIE ? SSTATUS_SPIE : 0, spp = priv == SUPERVISOR ? SSTATUS_SPP : 0;
    status = (status & ~(uint64_t)(SSTATUS_SIE | SSTATUS_SPIE | SSTATUS_SPP)) | spie | spp;
    reg_set(h, UC_RISCV_REG_SSTATUS, status);
    reg_set(h, UC_RISCV_REG_SEPC, epc);
    reg_set(h, UC_RISCV_REG_SCAUSE, cause);
    reg_set(h, UC_RISCV_REG_STVAL, tval);
    reg_set(h, UC_RISCV_REG_PC, pc);  /* by itself: only so does the engine know, in an instruction hook, to leave pc alone */
    h->count.traps++;
}

static bool access_at(struct hart *h, uint64_t pc, struct memory_access *m, uint64_t *address)
{
    uint32_t insn;
    if (!fill_fetch(h, pc, &insn) || !insn_memory_access(insn, m))
        return false;
    *address = (m->base ? reg_get(h, UC_RISCV_REG_X0 + (int)m->base) : 0) + (uint64_t)m->offset;
    return true;
}

/* A read-modify-write reads first in the engine; its faults are those of a store all the same. */
static uint64_t as_store(uint64_t cause, bool store)
{
    if (!store)
        return cause;
    switch (cause) {
    case CAUSE_LOAD_MISALIGNED:
        return CAUSE_STORE_MISALIGNED;
    case CAUSE_LOAD_ACCESS:
        return CAUSE_STORE_ACCESS;
    case CAUSE_LOAD_PAGE:
        return CAUSE_STORE_PAGE;
    default:
        return cause;
    }
}

/* What the store of a read-modify-write meets there, whose load has failed: no right to write comes before no memory. */
static uint64_t store_cause(struct hart *h, const struct fault *fault, uint64_t address)
{
    struct view view;
    struct translation to;
    fill_view(h, &view);
    uint64_t cause = (uint64_t)walk(h, &view, address, ACCESS_WRITE, false, &to);
    return cause ? cause : as_store(fault->cause, true);
}

/* The engine told the page that faulted: the exact address is the first byte of the access that lies in it. */
static uint64_t data_fault_address(struct hart *h, struct fault *fault)
{
    struct memory_access m;
    uint64_t address;
    if (access_at(h, fault->pc, &m, &address)) {
        if (m.store && fault->access == ACCESS_READ)
            fault->cause = store_cause(h, fault, address);
        if ((address & PAGE_MASK) == fault->page)
            return address;
        if (((address + m.size - 1) & PAGE_MASK) == fault->page)
            return fault->page;
    }
    h->count.address_unknown++;
    return fault->page;
}

static bool engine_moved_on(struct hart *h, const struct fault *fault)
{
    return reg_get(h, UC_RISCV_REG_PC) != fault->pc || reg_get(h, UC_RISCV_REG_PRIV) != fault->priv;
}

static void illegal(struct hart *h, uint64_t pc)
{
    uint32_t insn = 0;
    bool fetched = fill_fetch(h, pc, &insn);
    if (!fetched || !counters_read_time(h, insn, pc))
        trap_enter(h, CAUSE_ILLEGAL, insn, pc);
}

void trap_deliver_fault(struct hart *h)
{
    struct fault fault = h->fault;
    h->fault.on = false;
    if (fault.access == ACCESS_EXEC)
        clock_retire(h);  /* fetches happen between blocks */
    else
        clock_settle(h, fault.pc);
    if (engine_moved_on(h, &fault)) {
        h->count.faults_dropped++;
        return;
    }
    if (fault.access == ACCESS_EXEC && fault.pc == fault.page + PAGE_BYTES) {
        clock_count_trap(h);
        illegal(h, fault.pc);
        return;
    }
    uint64_t tval = fault.page;
    if (fault.access != ACCESS_EXEC) {
        tval = data_fault_address(h, &fault);
    } else if ((fault.pc & PAGE_MASK) == fault.page) {
        tval = fault.pc;
    } else if ((fault.pc & PAGE_MASK) + PAGE_BYTES == fault.page) {
        h->until = insn_straddler(h, fault.pc);
        if (h->until && h->until != fault.pc)
            return;
        h->until = 0;
    }
    h->count.faults++;
    clock_count_trap(h);
    trap_enter(h, fault.cause, tval, fault.pc);
}

static void misaligned(struct hart *h, uint64_t cause, uint64_t pc)
{
    struct memory_access m = {0};
    uint64_t address = 0;
    access_at(h, pc, &m, &address);
    trap_enter(h, as_store(cause, m.store), address, pc);
}

void trap_on_exception(uc_engine *uc, uint32_t number, void *hart)
{
    struct hart *h = hart;
    uint64_t pc = reg_get(h, UC_RISCV_REG_PC) - 4;
    clock_settle(h, pc);
    clock_count_trap(h);
    if (number == CAUSE_ECALL) {
        if (reg_get(h, UC_RISCV_REG_PRIV) == SUPERVISOR)
            sbi_call(h);
        else
            trap_enter(h, CAUSE_ECALL, 0, pc);
    } else if (number == CAUSE_ILLEGAL) {
        illegal(h, pc);
    } else {
        misaligned(h, number, pc);
    }
    if (h->stop_asked && !h->clock_hook)
        uc_emu_stop(uc);  /* between blocks, so it is safe; with the clock hook, that does it */
}

bool trap_on_breakpoint(uc_engine *uc, void *hart)
{
    struct hart *h = hart;
    uint64_t pc = reg_get(h, UC_RISCV_REG_PC);
    h->breakpoint = true;
    clock_settle(h, pc);
    clock_count_trap(h);
    trap_enter(h, CAUSE_BREAKPOINT, pc, pc);
    return true;
}
