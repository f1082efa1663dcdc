// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The debugger's half of the run loop: pauses at any instruction, breakpoints, watched memory; exact, and without a trace.
 *
 * A hart made for debugging has `debug_on_block` for its block hook. It knows what a block will run, since its code is
 * straight: a breakpoint in it is met at clock + offset, unless the block is left before; and the pause at a clock value is
 * at the first instruction that begins there or behind. So nothing is put into the guest's code, translations are those of
 * any other run, and a breakpoint costs nothing but a look at each block of its page.
 *
 * Going on from the middle of a block must not show. The engine stops at the block's entry; one instruction hook is put on
 * the instruction to pause at, the block's translation is dropped, and the block runs (`inside`) until that hook. From there
 * on a translation begins that the original run did not have, with its own end (blocks are cut after so many instructions):
 * so it is stopped again where the original block ended. At its entry nothing is looked at that only happens between blocks.
 * All that is translated for this has the engine's checks (checks.c), and is dropped again.
 *
 *   inside  entered  the engine is
 *   no      -        between blocks, or in a block of the original run
 *   yes     no       about to run (the rest of) the block that ends at `end`, up to `target`
 *   yes     yes      in there, or stopped in its middle
 *
 * Recorded hits wait as candidates until the clock has passed them: a fault earlier in the block takes them back.
 */
#include "hart.h"

#include <string.h>

#define NOWHERE UINT64_MAX
#define HITS_MAX (1u << 19)

static uint64_t filter_bit(uint64_t address)
{
    return (address >> PAGE_BITS) * UINT64_C(0x9e3779b97f4a7c15) >> 52;  /* 4096 bits */
}

static bool page_has_breakpoints(const struct debug *d, uint64_t address)
{
    uint64_t bit = filter_bit(address);
    return d->filter[bit >> 6] >> (bit & 63) & 1;
}

bool debug_set_breakpoints(struct hart *h, const uint64_t *addresses, size_t count, bool record)
{
    struct debug *d = &h->debug;
    memset(d->filter, 0, sizeof d->filter);
    d->breakpoints.count = 0;
    d->record = record;
    for (size_t i = 0; i < count; i++) {
        uint64_t bit = filter_bit(addresses[i]);
        if (!list_push(&d->breakpoints, addresses[i]))
            return false;
        d->filter[bit >> 6] |= UINT64_C(1) << (bit & 63);
    }
    return true;
}

static bool hit(struct hart *h, uint64_t clock, uint64_t address, uint64_t value, uint64_t kind)
{
    struct list *hits = &h->debug.hits;
    if (hits->count >= HITS_MAX * HIT_WORDS) {  /* who goes forth wants the first, who goes back the latest */
        size_t first = HITS_MAX / 2 * HIT_WORDS, latest = HITS_MAX / 4 * HIT_WORDS;
        memmove(hits->items + first, hits->items + hits->count - latest, latest * sizeof *hits->items);
        hits->count = first + latest;
    }
    return list_push(hits, clock) && list_push(hits, address) && list_push(hits, value) && list_push(hits, kind);
}

/* What was foreseen for the last block has come true as far as the clock has gone beyond it. */
void debug_confirm(struct hart *h)
{
    struct list *waiting = &h->debug.waiting;
    for (size_t i = 0; i + 2 < waiting->count; i += 3)
        if (h->clock > waiting->items[i])
            hit(h, waiting->items[i], waiting->items[i + 1], waiting->items[i + 2], HIT_BREAKPOINT);
    waiting->count = 0;
}

/* The first instruction at or behind `address + distance`: pauses are between instructions. */
static uint64_t next_boundary(struct hart *h, uint64_t address, uint64_t end, uint64_t distance)
{
    uint32_t insn;
    uint64_t at = address;
    while (at < end && at - address < distance) {
        if (!fill_fetch(h, at, &insn))
            return end;
        at += insn_size(insn);
    }
    return at < end ? at : end;
}

/* Where a trap's handler begins, this tells which trap it was. Not asked in user mode: that would take raised rights. */
static uint64_t last_cause(struct hart *h)
{
    return reg_get(h, UC_RISCV_REG_PRIV) == SUPERVISOR ? reg_get(h, UC_RISCV_REG_SCAUSE) : 0;
}

static uint64_t first_breakpoint(struct hart *h, uint64_t address, uint64_t end, bool skip_first)
{
    struct debug *d = &h->debug;
    uint64_t found = NOWHERE;
    for (size_t i = 0; i < d->breakpoints.count; i++) {
        uint64_t at = d->breakpoints.items[i];
        if (at < address || at >= end || next_boundary(h, address, end, at - address) != at)
            continue;  /* not in this block, or in the middle of an instruction, where nobody ever is */
        if (!d->record) {
            found = at < found && !(skip_first && at == address) ? at : found;
        } else {
            list_push(&d->waiting, h->clock + (at - address));
            list_push(&d->waiting, at);
            list_push(&d->waiting, at == address ? last_cause(h) : 0);
        }
    }
    return found;
}

/* Where in the code from `address` to `end`, which begins to run at the present clock, to pause; NOWHERE. */
static uint64_t pause_in(struct hart *h, uint64_t address, uint64_t end)
{
    struct debug *d = &h->debug;
    bool here_before = d->skip && d->skip_clock == h->clock;
    uint64_t target = NOWHERE;
    if (page_has_breakpoints(d, address) || page_has_breakpoints(d, end - 1))
        target = first_breakpoint(h, address, end, here_before);
    if (d->pause < h->clock + (end - address) && !(here_before && d->pause <= h->clock)) {
        uint64_t at = d->pause <= h->clock ? address : next_boundary(h, address, end, d->pause - h->clock);
        if (at < end && at < target)
            target = at;
    }
    return target;
}

/* Is it the block's rest, straight on from where it began? Its translation may be cut at other places than the original's. */
static bool goes_on_inside(const struct hart *h, uint64_t address)
{
    return debug_runs(h, address) && h->clock - h->debug.from_clock == address - h->debug.from;
}

static void stop_at(struct hart *h, uint64_t address)
{
    h->pending = 0;
    h->stopped = true;
    h->stopped_at = address;
    uc_emu_stop(h->uc);
}

/* In place of clock_on_block. */
void debug_on_block(uc_engine *uc, uint64_t address, uint32_t size, void *hart)
{
    struct hart *h = hart;
    struct debug *d = &h->debug;
    h->clock += h->pending;
    h->pending = size;
    h->block = address;
    if (goes_on_inside(h, address)) {
        d->entered = true;
        return;
    }
    debug_confirm(h);
    if (d->inside || h->clock >= h->limit) {  /* the hook has to go before a block of the original run begins */
        d->inside = false;
        stop_at(h, address);
        return;
    }
    uint64_t target = pause_in(h, address, address + size);
    d->skip = false;
    if (target == NOWHERE)
        return;
    d->from = address;
    d->target = target;
    d->end = address + size;
    d->found = true;
    stop_at(h, address);
}

static void on_target(uc_engine *uc, uint64_t address, uint32_t size, void *hart)
{
    struct hart *h = hart;
    if (!debug_pauses_at(h, address))
        return;
    clock_settle(h, address);
    debug_confirm(h);
    h->stopped = true;
    h->stopped_at = address;
    uc_emu_stop(uc);
}

static uint64_t page_of(struct hart *h, uint64_t va)
{
    uint64_t index;
    return fill_page_of(h, va, &index) ? index : NOWHERE;
}

/* Drops the translations of the block, which begin or end on its pages. */
static void drop_block(struct hart *h)
{
    struct debug *d = &h->debug;
    for (int i = 0; i < 2; i++)
        if (d->pages[i] != NOWHERE)
            pages_drop_code(h, d->pages[i]);
    pages_flush_tlb(h);
}

/* Before any block of the original run is translated again: a hook in it could make it end elsewhere. */
static void unhook(struct hart *h)
{
    struct debug *d = &h->debug;
    if (!d->hooked)
        return;
    h->removing = true;
    uc_hook_del(h->uc, d->hook);
    h->removing = false;
    drop_block(h);
    d->hooked = false;
    checks_leave_out(h, true);
}

/* Prepare to run from d->from up to d->target, in the block that ends at d->end. */
static void go_inside(struct hart *h)
{
    struct debug *d = &h->debug;
    unhook(h);
    checks_leave_out(h, false);  /* else the hook would not stop the engine */
    h->checked.on = false;
    d->from_clock = h->clock;
    d->inside = true;
    d->entered = false;
    if (uc_hook_add(h->uc, &d->hook, UC_HOOK_CODE, on_target, h, d->target, d->target) != UC_ERR_OK) {
        hart_fail(h, "out of memory for the debugger's hook at 0x%llx", (unsigned long long)d->target);
        return;
    }
    d->hooked = true;
    d->pages[0] = page_of(h, d->from);
    d->pages[1] = page_of(h, d->end - 1);
    drop_block(h);
}

static bool pause_here(struct hart *h, uint64_t address)
{
    struct debug *d = &h->debug;
    d->at = address;
    d->skip = true;
    d->skip_clock = h->clock;
    return true;
}

/*
 * After each slice: whether the hart pauses now. `*boundary` says whether what happens between blocks may happen: not when
 * the engine stands in the middle of one, or in front of one that is about to run up to a target.
 */
bool debug_after_slice(struct hart *h, bool *boundary)
{
    struct debug *d = &h->debug;
    *boundary = true;
    if (d->found) {
        d->found = false;
        if (d->target == d->from) {
            d->waiting.count = 0;  /* the block comes by again */
            return pause_here(h, d->from);
        }
        go_inside(h);
        *boundary = false;
        return false;
    }
    if (!d->inside) {
        unhook(h);
        return false;
    }
    if (!d->entered && reg_get(h, UC_RISCV_REG_PC) == d->from) {  /* a fresh translation was looked through */
        counters_hook_fresh(h);
        *boundary = false;
        return false;
    }
    bool reached = d->entered && h->stopped && h->stopped_at == d->target;
    d->inside = reached && d->target != d->end;  /* else the block was left by a trap or wfi, or has ended */
    *boundary = !d->inside;
    if (d->inside)
        return pause_here(h, d->target);
    unhook(h);
    return false;
}

/* The hart goes on from a pause. */
void debug_leave_pause(struct hart *h)
{
    struct debug *d = &h->debug;
    if (!d->inside)
        return;
    d->from = d->at;
    uint64_t target = pause_in(h, d->from, d->end);
    d->target = target == NOWHERE ? d->end : target;
    d->skip = false;
    go_inside(h);
}

void debug_forget(struct hart *h)
{
    struct debug *d = &h->debug;
    unhook(h);
    d->inside = d->entered = d->found = d->skip = false;
    d->waiting.count = 0;
}

/* Memory watched at physical addresses: every access is noted while such hooks exist, which makes all accesses slow. */

static uint64_t clock_of_access(struct hart *h)
{
    uint64_t offset = reg_get(h, UC_RISCV_REG_PC) - h->block;
    return h->clock + (offset < h->pending ? offset : 0);
}

static void on_access(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *hart)
{
    struct hart *h = hart;
    bool store = type == UC_MEM_WRITE;
    hit(h, clock_of_access(h), address, store ? (uint64_t)value : 0,
        (uint64_t)size << 8 | (store ? HIT_WRITE : HIT_READ));
}

/* A device is about to be accessed: where is not known any more when it is. */
static void on_device(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *hart)
{
    struct hart *h = hart;
    h->debug.device_clock = clock_of_access(h);
}

/* The clock of the instruction that made a device, or the firmware, write; else where the hart stands. */
static uint64_t clock_of_request(const struct hart *h)
{
    if (!h->running)
        return h->clock;
    if (!h->pending)
        return h->clock - 1;  /* a call of the firmware: it has trapped */
    return h->debug.device_clock > h->clock ? h->debug.device_clock : h->clock;
}

void debug_wrote(struct hart *h, uint64_t address, uint64_t length)
{
    struct debug *d = &h->debug;
    uint64_t clock = clock_of_request(h);
    for (size_t i = 0; i + 2 < d->watches.count; i += 3) {
        uint64_t first = d->watches.items[i], last = d->watches.items[i + 1];
        if ((d->watches.items[i + 2] & ACCESS_WRITE) && address <= last && address + length > first)
            hit(h, clock, address > first ? address : first, 0, HIT_DEVICE);
    }
}

void debug_unwatch(struct hart *h)
{
    struct debug *d = &h->debug;
    if (!d->watches.count)
        return;
    h->removing = true;
    for (size_t i = 0; i < d->watch_hooks.count; i++)
        uc_hook_del(h->uc, d->watch_hooks.items[i]);
    h->removing = false;
    d->watches.count = d->watch_hooks.count = 0;
    pages_drop_all(h);
}

static bool watch_devices(struct hart *h)
{
    struct debug *d = &h->debug;
    const struct window *window;
    uc_hook hook;
    for (unsigned i = 0; (window = mmio_window(i)); i++)
        if (uc_hook_add(h->uc, &hook, UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, on_device, h, window->base,
                        window->base + window->size - 1) != UC_ERR_OK
            || !list_push(&d->watch_hooks, hook))
            return false;
    return true;
}

bool debug_watch(struct hart *h, uint64_t first, uint64_t length, unsigned access)
{
    struct debug *d = &h->debug;
    if (!d->watches.count && !watch_devices(h))
        return false;
    int types = (access & ACCESS_READ ? UC_HOOK_MEM_READ : 0) | (access & ACCESS_WRITE ? UC_HOOK_MEM_WRITE : 0);
    uint64_t last = first + length - 1;
    uc_hook hook;
    if (uc_hook_add(h->uc, &hook, types, on_access, h, first, last) != UC_ERR_OK)
        return false;
    pages_drop_all(h);
    return list_push(&d->watch_hooks, hook) && list_push(&d->watches, first) && list_push(&d->watches, last)
        && list_push(&d->watches, access);
}
