// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Page states: each physical page is either code or writable in the TLB, so no store can miss a translation.
 *
 *   state      execution fill          write fill                                    write by the host
 *   NONE       CODE                    WRITABLE                                      -
 *   CODE       -                       drop code, WRITABLE; or MIXED or HOOKED,      drop code
 *                                      when it flips often
 *   WRITABLE   flush, CODE             -                                             -
 *   MIXED      -                       as CODE, through an alias that cannot execute drop code
 *   HOOKED     -                       -                                             drop code
 *
 * Left alone, the engine misses stores through an alias of a page with translations, and all stores by the host. The
 * TLB holds W for a page or X for it, never both, and removal of translations goes by physical page (through a window
 * of addresses that the fill hook maps straight to physical memory). MIXED and HOOKED bring back the engine's own check
 * of every store, for one page each: the first is in force where one TLB entry holds W and X, the second where a
 * write-protection hook exists on the page, though it never fires.
 *
 * What the TLB holds is never older than the page tables, with or without sfence.vma: which entries the engine evicts
 * depends on its host's clock (its TLB grows and shrinks with use), so one that outlived its page table would be seen by
 * the guest now and then. A page that an entry was derived from is a *table* until the next flush and has no W in the
 * TLB; a write fill of it, a write by the host or by the walker flushes, and it is a table no more. A page through whose
 * own tables it is written keeps its W until the next block entry.
 *
 * A page is dirty from its first write fill, its first write by the host or by the walker. After pages_lose_write()
 * no page has W in the TLB, whatever its state, so the set of dirty pages depends on the guest's stores alone. Whoever
 * marks a page dirty asks first whether a snapshot still needs what it held (snapshot.c).
 */
#include "hart.h"

#include <string.h>

#define MIXED_AFTER 8
#define HOOKED_AFTER 32
#define HOOKS_MAX 64           /* more hooked pages than this: hook all of RAM, which is slow and still exact */
#define REMOVE_PAGES_MAX 256   /* more pages at once than this: drop every translation instead */

static bool has_code(const struct page *page)
{
    return page->state == PAGE_CODE || page->state == PAGE_MIXED || page->state == PAGE_HOOKED;
}

void pages_flush_tlb(struct hart *h)
{
    uc_ctl_flush_tlb(h->uc);
    h->tlb_age++;
    h->count.flushes++;
}

static bool is_table(const struct hart *h, const struct page *page)
{
    return page->table == h->tlb_age;
}

/* The page had W in the TLB, which has been flushed. */
static void lose_write(struct page *page)
{
    if (page->state == PAGE_WRITABLE)
        page->state = PAGE_NONE;
    else if (page->state == PAGE_MIXED || page->state == PAGE_HOOKED)
        page->state = PAGE_CODE;
}

/* Removes a page's translations. The caller flushes the TLB, which now holds an address of the window. */
void pages_drop_code(struct hart *h, uint64_t index)
{
    uint64_t address = REMOVAL_WINDOW + RAM_BASE + (index << PAGE_BITS);
    h->removing = true;
    uc_ctl_remove_cache(h->uc, address, address + PAGE_BYTES);
    h->removing = false;
    h->count.removals++;
}

/* Forgets every translation and page state; not while the engine runs. */
void pages_drop_all(struct hart *h)
{
    uc_ctl_flush_tb(h->uc);
    pages_flush_tlb(h);
    for (uint64_t i = 0; i < h->pages_count; i++) {
        h->pages[i].state = PAGE_NONE;
        h->pages[i].flips = 0;
        h->pages[i].written = 0;
    }
    h->written.count = 0;
    memset(h->fetched, 0, FETCH_ENTRIES * sizeof *h->fetched);
}

/* The hart jumps to another state: whatever came of its page tables is forgotten, translations stay as RAM is. */
void pages_forget_tlb(struct hart *h)
{
    pages_settle_writes(h);
    pages_lose_write(h);
    memset(h->fetched, 0, FETCH_ENTRIES * sizeof *h->fetched);
}

static bool never_fires(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *hart)
{
    return false;
}

static void hook_writes(struct hart *h, struct page *page, uint64_t index)
{
    uint64_t first = RAM_BASE + (index << PAGE_BITS), last = first + PAGE_BYTES - 1;
    if (h->hooks.count > HOOKS_MAX) {
        page->hooked = 1;
        return;
    }
    if (h->hooks.count == HOOKS_MAX) {
        first = RAM_BASE;
        last = RAM_BASE + h->ram_size - 1;
    }
    uc_hook hook;
    if (uc_hook_add(h->uc, &hook, UC_HOOK_MEM_WRITE_PROT, never_fires, h, first, last) != UC_ERR_OK)
        return;
    page->hooked = list_push(&h->hooks, hook);
    h->count.hooked_pages++;
}

static void make_writable(struct hart *h, struct page *page, uint64_t index)
{
    pages_drop_code(h, index);
    pages_flush_tlb(h);
    page->state = PAGE_WRITABLE;
    if (page->flips < UINT16_MAX)
        page->flips++;
    h->count.code_to_writable++;
}

static void will_be_written(struct hart *h, uint64_t index)
{
    snapshot_before_write(h, index);
    h->pages[index].dirty = DIRTY_ALL;
}

static void claim_for_write(struct hart *h, struct page *page, uint64_t index, unsigned allowed)
{
    bool executable = allowed & ACCESS_EXEC;
    if (page->state == PAGE_CODE && executable && page->flips >= MIXED_AFTER) {
        page->state = PAGE_MIXED;
        h->count.mixed_pages++;
    }
    if ((page->state == PAGE_CODE || page->state == PAGE_MIXED) && !executable && page->flips >= HOOKED_AFTER) {
        if (!page->hooked)
            hook_writes(h, page, index);
        if (page->hooked)
            page->state = PAGE_HOOKED;
    }
    if (page->state == PAGE_CODE || (page->state == PAGE_MIXED && !executable))
        make_writable(h, page, index);
    if (page->state == PAGE_NONE)
        page->state = PAGE_WRITABLE;
    will_be_written(h, index);
}

static void claim_for_execution(struct hart *h, struct page *page)
{
    if (page->state == PAGE_WRITABLE) {
        pages_flush_tlb(h);
        h->count.writable_to_code++;
    }
    if (!has_code(page))
        page->state = PAGE_CODE;
}

/* The page's new state for this access, and what of `allowed` the TLB may hold. */
unsigned pages_claim(struct hart *h, uint64_t index, enum access access, unsigned allowed)
{
    struct page *page = &h->pages[index];
    if (access == ACCESS_WRITE && is_table(h, page))
        pages_flush_tlb(h);
    if (access == ACCESS_WRITE)
        claim_for_write(h, page, index, allowed);
    else if (access == ACCESS_EXEC)
        claim_for_execution(h, page);
    switch (page->state) {
    case PAGE_NONE:
        return allowed & ACCESS_READ;
    case PAGE_CODE:
        return allowed & ~(unsigned)ACCESS_WRITE;
    case PAGE_WRITABLE:
        return allowed & ~(unsigned)ACCESS_EXEC;
    case PAGE_MIXED:
        return allowed & ACCESS_EXEC ? allowed : allowed & ~(unsigned)ACCESS_WRITE;
    default:
        return allowed;
    }
}

/* The walker is about to write an entry of the page table on this page. */
void pages_touch_table(struct hart *h, uint64_t index)
{
    struct page *page = &h->pages[index];
    will_be_written(h, index);
    if (has_code(page))
        pages_drop_code(h, index);
    if (has_code(page) || is_table(h, page))
        pages_flush_tlb(h);
}

/* The host, or a page through its own tables, writes where translations or TLB entries came from: forget them soon. */
static void settle_later(struct hart *h, uint64_t index)
{
    struct page *page = &h->pages[index];
    if (page->written || !list_push(&h->written, index))
        return;
    page->written = 1;
    clock_kick(h);
}

/*
 * The TLB is about to hold an entry for this page that was derived from these tables: they lose W. Returns what of
 * `allowed` the entry may hold. `index` is pages_count for what is not RAM.
 */
unsigned pages_derive(struct hart *h, uint64_t index, enum access access, unsigned allowed, const struct tables *from)
{
    bool flush = false;
    for (unsigned i = 0; i < from->count; i++) {
        struct page *page = &h->pages[from->page[i]];
        if (from->page[i] == index && access == ACCESS_WRITE)
            settle_later(h, index);
        else
            flush = flush || (!is_table(h, page) && page->state != PAGE_NONE && page->state != PAGE_CODE);
    }
    if (flush)
        pages_flush_tlb(h);
    for (unsigned i = 0; i < from->count; i++) {
        if (from->page[i] == index && access == ACCESS_WRITE)
            continue;
        if (from->page[i] == index)
            allowed &= ~(unsigned)ACCESS_WRITE;
        lose_write(&h->pages[from->page[i]]);
        h->pages[from->page[i]].table = h->tlb_age;
    }
    return allowed;
}

/*
 * The host is about to write RAM. Translations are removed at the next block entry when the engine runs: until then the
 * block that is running goes on, as it would on a hart without fence.i.
 */
void pages_host_writes(struct hart *h, uint64_t address, uint64_t length)
{
    if (!length || !in_ram(h, address))
        return;
    if (h->debug.watches.count)
        debug_wrote(h, address, length);
    uint64_t last = (address - RAM_BASE + length - 1) >> PAGE_BITS;
    for (uint64_t i = (address - RAM_BASE) >> PAGE_BITS; i <= last && i < h->pages_count; i++) {
        struct page *page = &h->pages[i];
        will_be_written(h, i);
        if (!has_code(page) && !is_table(h, page))
            continue;
        h->count.host_writes_to_code += has_code(page) && !page->written;
        settle_later(h, i);
    }
    if (!h->running)
        pages_settle_writes(h);
}

void pages_settle_writes(struct hart *h)
{
    if (!h->written.count)
        return;
    bool many = h->written.count > REMOVE_PAGES_MAX;
    if (many)
        uc_ctl_flush_tb(h->uc);
    for (size_t i = 0; i < h->written.count; i++) {
        struct page *page = &h->pages[h->written.items[i]];
        page->written = 0;
        if (!many && has_code(page))
            pages_drop_code(h, h->written.items[i]);
    }
    h->written.count = 0;
    pages_flush_tlb(h);
}

/* Every page's next write comes back to the fill hook. */
void pages_lose_write(struct hart *h)
{
    for (uint64_t i = 0; i < h->pages_count; i++)
        lose_write(&h->pages[i]);
    pages_flush_tlb(h);
}

void pages_clear_dirty(struct hart *h)
{
    for (uint64_t i = 0; i < h->pages_count; i++)
        h->pages[i].dirty &= (uint8_t)~DIRTY_DIGEST;
    pages_lose_write(h);
}
