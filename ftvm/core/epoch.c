// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The clock, guest time, and the run of one epoch.
 *
 * Clock = bytes of retired code + 1 per synchronous trap. The block hook adds a block's size when the *next* block is
 * entered; `clock_settle` corrects it when a block was left in its middle. An epoch ends at the first block entry where
 * the clock has reached its limit, so its end is a function of the machine's state and the entry alone.
 *
 * Slices: `limit` may be lower than the epoch's limit (a timer falls due), or 0 (a callback changed an interrupt line,
 * the host wrote over code). The engine then stops at the next block entry and goes on at the same place. A slice more
 * or less never shows, because what is done between slices depends on the clock and the state only. For the same
 * reason the engine may also be stopped by a fresh translation, which the other replica may already have.
 *
 * uc_emu_stop is called in hooks at block entries only: anywhere else the access in flight would be executed twice.
 */
#include "hart.h"

void clock_on_block(uc_engine *uc, uint64_t address, uint32_t size, void *hart)
{
    struct hart *h = hart;
    h->clock += h->pending;
    h->pending = size;
    h->block = address;
    if (__builtin_expect(h->clock >= h->limit, 0)) {
        h->pending = 0;
        h->stopped = true;
        h->stopped_at = address;
        uc_emu_stop(uc);
    }
}

/* The block that ran was left at pc. */
void clock_settle(struct hart *h, uint64_t pc)
{
    uint64_t retired = pc - h->block;
    h->clock += retired < h->pending ? retired : h->pending;
    h->pending = 0;
}

/* The block that ran has retired as a whole. */
void clock_retire(struct hart *h)
{
    h->clock += h->pending;
    h->pending = 0;
}

/* End the slice at the next block entry. Safe in every callback. */
void clock_kick(struct hart *h)
{
    h->limit = 0;
}

void clock_count_trap(struct hart *h)
{
    h->clock++;
    h->barren_traps = h->clock == h->barren_clock + 1 ? h->barren_traps + 1 : 0;
    h->barren_clock = h->clock;
    if (h->barren_traps >= BARREN_TRAPS_MAX) {
        h->barren_traps = 0;
        hart_fail(h, "trap loop: %d traps in a row without one instruction retired, stvec 0x%llx, scause %llu, sepc 0x%llx",
                  BARREN_TRAPS_MAX, (unsigned long long)csr_get(h, UC_RISCV_REG_STVEC),
                  (unsigned long long)csr_get(h, UC_RISCV_REG_SCAUSE), (unsigned long long)csr_get(h, UC_RISCV_REG_SEPC));
    }
}

uint64_t hart_time(const struct hart *h)
{
    uint64_t room = h->epoch_time_max - h->epoch_time;
    uint64_t ticks = (h->clock - h->epoch_clock) / BYTES_PER_TICK;
    return h->epoch_time + (ticks < room ? ticks : room);
}

/* The clock at which the timer falls due in this epoch. One that is due already is a pending interrupt instead. */
static uint64_t timer_clock(const struct hart *h)
{
    if (h->timer <= hart_time(h) || h->timer > h->epoch_time_max)
        return NEVER;
    uint64_t ticks = h->timer - h->epoch_time;
    if (ticks > (h->epoch_limit - h->epoch_clock) / BYTES_PER_TICK)
        return NEVER;
    return h->epoch_clock + ticks * BYTES_PER_TICK;
}

static uint64_t slice_limit(const struct hart *h)
{
    uint64_t due = timer_clock(h);
    return due < h->epoch_limit ? due : h->epoch_limit;
}

static void start_slice(struct hart *h)
{
    h->limit = slice_limit(h);
    h->stopped = h->breakpoint = h->fault.on = false;
    h->count.slices++;
}

/* Timer and external line to mip, when they changed: writing mip costs the guest its LR reservation. */
static void update_lines(struct hart *h)
{
    int lines = (hart_time(h) >= h->timer ? MIP_STIP : 0) | (h->external ? MIP_SEIP : 0);
    if (lines == h->lines)
        return;
    uint64_t mip = csr_get(h, UC_RISCV_REG_MIP) & ~(uint64_t)(MIP_STIP | MIP_SEIP);
    csr_set(h, UC_RISCV_REG_MIP, mip | (uint64_t)lines);
    h->lines = lines;
}

/* The guest arms its timer, in a call to the firmware: between blocks, so mip may be written at once. */
void clock_set_timer(struct hart *h, uint64_t ticks)
{
    h->timer = ticks;
    update_lines(h);
    if (h->limit)
        h->limit = slice_limit(h);
}

/*
 * A line that falls in a device access must not interrupt at an sret that ends the same block. Clearing the last pending
 * bit is the one change of mip that is safe there: any other makes the engine leave the block and repeat the access.
 */
static void lower_external(struct hart *h)
{
    uint64_t mip = csr_get(h, UC_RISCV_REG_MIP) & MIP_S;
    if (mip != MIP_SEIP)
        return;
    csr_set(h, UC_RISCV_REG_MIP, 0);
    h->lines &= ~MIP_SEIP;
}

void hart_set_external(struct hart *h, bool level)
{
    if (h->external == level)
        return;
    h->external = level;
    clock_kick(h);
    if (h->running && !level)
        lower_external(h);
}

void hart_stop(struct hart *h)
{
    h->stop_asked = true;
    clock_kick(h);
}

static bool interrupt_waits(struct hart *h)
{
    update_lines(h);
    return csr_get(h, UC_RISCV_REG_MIP) & csr_get(h, UC_RISCV_REG_MIE) & MIP_S;
}

static void drop_code_at(struct hart *h, uint64_t va)
{
    uint64_t index;
    if (fill_page_of(h, va, &index))
        pages_drop_code(h, index);
}

/* Runs one block, which ends before `until`. Translations that were cut off there are forgotten again. */
static uc_err run_until(struct hart *h, uint64_t until)
{
    h->limit = h->limit > h->clock ? h->clock + 1 : h->limit;
    uc_ctl_set_exits(h->uc, &until, 1);
    uc_err err = uc_emu_start(h->uc, reg_get(h, UC_RISCV_REG_PC), 0, 0, 0);
    uc_ctl_set_exits(h->uc, NULL, 0);
    drop_code_at(h, until);
    drop_code_at(h, reg_get(h, UC_RISCV_REG_PC));
    pages_flush_tlb(h);
    return err;
}

/* Runs one slice. Returns whether it ended in wfi. */
static bool run_slice(struct hart *h)
{
    uint64_t until = h->until;
    h->until = 0;
    start_slice(h);
    uc_err err = until ? run_until(h, until) : uc_emu_start(h->uc, reg_get(h, UC_RISCV_REG_PC), 0, 0, 0);
    uint64_t pc = reg_get(h, UC_RISCV_REG_PC);
    if (err == UC_ERR_EXCEPTION && h->breakpoint)  /* handled: the engine remembers it as an error all the same */
        return false;
    if (err == UC_ERR_EXCEPTION && h->fault.on) {
        trap_deliver_fault(h);
        return false;
    }
    if (err != UC_ERR_OK) {
        clock_settle(h, pc);
        hart_fail(h, "the engine gave up at pc 0x%llx: %s", (unsigned long long)pc, uc_strerror(err));
        return false;
    }
    if (!h->stopped) {
        clock_settle(h, pc);
        return !until || pc != until;
    }
    if (pc != h->stopped_at) {  /* the engine may not have written pc back while any instruction hook exists */
        reg_set(h, UC_RISCV_REG_PC, h->stopped_at);
        h->count.pc_corrected++;
    }
    return false;
}

static void begin_epoch(struct hart *h, uint64_t time, uint64_t time_max, uint64_t budget)
{
    h->epoch_time = time;
    h->epoch_time_max = time_max;
    h->epoch_clock = h->clock;
    h->epoch_limit = budget < NEVER - h->clock ? h->clock + budget : NEVER;
    h->stop_asked = h->failed = false;
    reg_set(h, UC_RISCV_REG_PRIV, reg_get(h, UC_RISCV_REG_PRIV));  /* drops the LR reservation: a save could not keep it */
}

/* What is done between two slices. Returns whether the epoch is over, and why. */
static bool between_slices(struct hart *h, bool halted, int *reason)
{
    counters_hook_fresh(h);
    pages_settle_writes(h);
    if (h->satp_written)
        pages_flush_tlb(h);
    h->satp_written = false;
    *reason = h->failed ? STOP_GUEST_ERROR : STOP_ASKED;
    if (h->failed || h->stop_asked)
        return true;
    *reason = STOP_IDLE;
    h->count.halts += halted;
    if (halted && !interrupt_waits(h))
        return true;
    *reason = STOP_LIMIT;
    return h->clock >= h->epoch_limit;
}

/* The engine is entered at least once, since a pending interrupt moves pc but not the clock. */
static int run_epoch(struct hart *h)
{
    for (;;) {
        bool boundary = true;
        int reason;
        if (!h->debug.inside)
            update_lines(h);
        bool halted = run_slice(h);
        if (h->debug.on && debug_after_slice(h, &boundary))
            return STOP_PAUSED;
        if (boundary && between_slices(h, halted, &reason))
            return reason;
    }
}

static void end_epoch(struct hart *h)
{
    h->epoch_time = hart_time(h);
    h->epoch_time_max = h->epoch_time;
    h->epoch_clock = h->clock;
}

static int run_on(struct hart *h)
{
    h->running = true;
    int reason = run_epoch(h);
    h->running = false;
    h->paused = reason == STOP_PAUSED;
    if (!h->paused)
        end_epoch(h);
    return reason;
}

int hart_run(struct hart *h, uint64_t time, uint64_t time_max, uint64_t budget)
{
    begin_epoch(h, time, time_max, budget);
    return run_on(h);
}

/* Go on with the epoch in which the hart has paused. */
int hart_resume(struct hart *h)
{
    debug_leave_pause(h);
    return run_on(h);
}

/* End the epoch in which the hart has paused where it stands: what follows has other inputs than the original had. */
void hart_cut_epoch(struct hart *h)
{
    int reason;
    debug_forget(h);
    between_slices(h, false, &reason);
    h->paused = false;
    end_epoch(h);
}
