// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The TLB fill hook: the engine asks here for every page that its TLB does not hold.
 *
 * The answer holds every permission that is legal now, since one entry serves reads, writes and execution. A refusal
 * ends uc_emu_start with pc exact; the fault is noted here and delivered by trap.c, outside the engine.
 *
 * satp and sstatus cannot be read through uc_reg_read while the guest is in user mode, and raising the privilege would
 * clear its LR reservation at a moment that depends on the TLB's contents. So they are peeked from a saved context, at
 * positions found at birth by changing one register and looking what changed.
 */
#include "hart.h"

#include <string.h>

static uint64_t word_at(const struct peek *peek, size_t offset)
{
    uint64_t word;
    memcpy(&word, (const uint8_t *)peek->context + offset, sizeof word);
    return word;
}

void fill_view(struct hart *h, struct view *view)
{
    uc_context_save(h->uc, h->peek.context);
    view->priv = word_at(&h->peek, h->peek.priv);
    view->satp = word_at(&h->peek, h->peek.satp);
    view->status = word_at(&h->peek, h->peek.mstatus);
}

/* Where in a saved context the one word lies that differs between two values of a register; 0 if not exactly one does. */
static size_t locate(struct hart *h, int id, uint64_t one, uint64_t other)
{
    size_t size = uc_context_size(h->uc), found = 0;
    uint8_t before[size];
    reg_set(h, id, one);
    uc_context_save(h->uc, h->peek.context);
    memcpy(before, h->peek.context, size);
    reg_set(h, id, other);
    uc_context_save(h->uc, h->peek.context);
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t was, is = word_at(&h->peek, i);
        memcpy(&was, before + i, sizeof was);
        if (was == is)
            continue;
        if (found)
            return 0;
        found = i;
    }
    return found;
}

bool fill_locate_registers(struct hart *h)
{
    if (uc_context_alloc(h->uc, &h->peek.context) != UC_ERR_OK)
        return false;
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    h->peek.satp = locate(h, UC_RISCV_REG_SATP, UINT64_C(8) << 60 | 0x123456, 0);
    h->peek.mstatus = locate(h, UC_RISCV_REG_SSTATUS, SSTATUS_SUM | SSTATUS_MXR, 0);
    h->peek.priv = locate(h, UC_RISCV_REG_PRIV, USER, SUPERVISOR);
    return h->peek.satp && h->peek.mstatus && h->peek.priv;
}

static struct fetch_entry *fetch_slot(struct hart *h, uint64_t va, uint64_t priv, uint64_t *tag)
{
    *tag = (va >> PAGE_BITS) * 4 + priv + 1;
    return &h->fetched[(*tag * UINT64_C(0x9e3779b97f4a7c15)) >> 51];
}

static void note_fetch(struct hart *h, uint64_t va, uint64_t priv, uint64_t index)
{
    uint64_t tag;
    struct fetch_entry *entry = fetch_slot(h, va, priv, &tag);
    *entry = (struct fetch_entry){tag, index};
}

/* The RAM page that code at va was translated from: of the last execution fill, or as the page tables say. */
bool fill_page_of(struct hart *h, uint64_t va, uint64_t *index)
{
    struct view view;
    struct translation to;
    uint64_t tag, priv = reg_get(h, UC_RISCV_REG_PRIV);
    struct fetch_entry *entry = fetch_slot(h, va, priv, &tag);
    if (entry->tag == tag) {
        *index = entry->page;
        return true;
    }
    fill_view(h, &view);
    if (walk(h, &view, va, ACCESS_EXEC, false, &to) || !in_ram(h, to.physical))
        return false;
    *index = (to.physical - RAM_BASE) >> PAGE_BITS;
    return true;
}

/* The two bytes of code at va. */
bool fill_short(struct hart *h, uint64_t va, uint16_t *half)
{
    uint64_t index;
    if (!fill_page_of(h, va, &index))
        return false;
    uint64_t offset = (index << PAGE_BITS) + (va & (PAGE_BYTES - 1));
    if (offset + 2 > h->ram_size)
        return false;
    memcpy(half, h->ram + offset, sizeof *half);
    return true;
}

/* The instruction at va; the upper half of a short one is 0. */
bool fill_fetch(struct hart *h, uint64_t va, uint32_t *insn)
{
    uint16_t low, high = 0;
    if (!fill_short(h, va, &low))
        return false;
    if ((low & 3) == 3 && !fill_short(h, va + 2, &high))
        return false;
    *insn = low | (uint32_t)high << 16;
    return true;
}

static bool refuse(struct hart *h, uint64_t va, uint64_t priv, enum access access, int cause)
{
    h->fault = (struct fault){true, access, reg_get(h, UC_RISCV_REG_PC), va & PAGE_MASK, priv, (uint64_t)cause};
    return false;
}

bool fill_on_miss(uc_engine *uc, uint64_t va, uc_mem_type type, uc_tlb_entry *entry, void *hart)
{
    struct hart *h = hart;
    if (h->removing) {
        uint64_t physical = va - REMOVAL_WINDOW;  /* outside the window only where all translations are about to go */
        *entry = (uc_tlb_entry){in_ram(h, physical) ? physical : RAM_BASE, UC_PROT_READ | UC_PROT_EXEC};
        return true;
    }
    enum access access = type == UC_MEM_FETCH ? ACCESS_EXEC : type == UC_MEM_WRITE ? ACCESS_WRITE : ACCESS_READ;
    struct view view;
    struct translation to;
    h->count.fills++;
    fill_view(h, &view);
    int cause = walk(h, &view, va, access, true, &to);
    if (cause)
        return refuse(h, va, view.priv, access, cause);
    if (in_ram(h, to.physical)) {
        uint64_t index = (to.physical - RAM_BASE) >> PAGE_BITS;
        to.access = pages_claim(h, index, access, to.access);
        to.access = pages_derive(h, index, access, to.access, &to.from);
        if (to.access & ACCESS_EXEC)  /* also for a load or store: execution through this entry will not ask again */
            note_fetch(h, va, view.priv, index);
    } else {
        pages_derive(h, h->pages_count, access, to.access, &to.from);
    }
    *entry = (uc_tlb_entry){to.physical & PAGE_MASK, (uc_prot)to.access};
    return true;
}
