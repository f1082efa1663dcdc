// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From virtual to physical: the page table walk of the privileged specification 1.12, sections 4.3.2 and 4.4 to 4.6.
 *
 * The device tree advertises Sv39 only, but the engine lets satp hold Sv48 and Sv57 too, so all three are walked.
 * Page table entries have V R W X U G A D in bits 0 to 7, the page number in bits 10 to 53, and 54 to 63 reserved.
 */
#include "hart.h"

enum { PTE_V = 1, PTE_R = 2, PTE_W = 4, PTE_X = 8, PTE_U = 16, PTE_A = 64, PTE_D = 128 };
#define PTE_RESERVED (UINT64_C(0x3ff) << 54)
#define PPN_MASK ((UINT64_C(1) << 44) - 1)
#define SATP_MODE(satp) ((satp) >> 60)
#define LEVELS_SV39 3
#define MODE_SV39 8

bool in_ram(const struct hart *h, uint64_t address)
{
    return address - RAM_BASE < h->ram_size;
}

static int page_fault(enum access access)
{
    return access == ACCESS_EXEC ? CAUSE_FETCH_PAGE : access == ACCESS_WRITE ? CAUSE_STORE_PAGE : CAUSE_LOAD_PAGE;
}

static int access_fault(enum access access)
{
    return access == ACCESS_EXEC ? CAUSE_FETCH_ACCESS : access == ACCESS_WRITE ? CAUSE_STORE_ACCESS : CAUSE_LOAD_ACCESS;
}

/* What a valid leaf allows at this privilege, before A and D are looked at. */
static unsigned leaf_access(uint64_t pte, const struct view *view)
{
    unsigned allowed = (pte >> 1) & 7;
    if ((view->status & SSTATUS_MXR) && (pte & PTE_X))
        allowed |= ACCESS_READ;
    if (view->priv == USER)
        return pte & PTE_U ? allowed : 0;
    if (pte & PTE_U)
        return view->status & SSTATUS_SUM ? allowed & ~(unsigned)ACCESS_EXEC : 0;
    return allowed;
}

static bool canonical(uint64_t va, int levels)
{
    int unused = 64 - (PAGE_BITS + 9 * levels);
    return (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

static void mark_used(struct hart *h, uint64_t *pte, enum access access)
{
    uint64_t marked = *pte | PTE_A | (access == ACCESS_WRITE ? PTE_D : 0);
    if (marked == *pte)
        return;
    pages_touch_table(h, (uint64_t)((uint8_t *)pte - h->ram) >> PAGE_BITS);
    *pte = marked;
}

static int use_leaf(struct hart *h, const struct view *view, uint64_t va, enum access access, bool update, int level,
                    uint64_t *pte, struct translation *out)
{
    uint64_t number = (*pte >> 10) & PPN_MASK, inside = (UINT64_C(1) << (9 * level)) - 1;
    out->access = leaf_access(*pte, view);
    if (!(out->access & access) || (number & inside))  /* forbidden, or a misaligned superpage */
        return page_fault(access);
    if (update)
        mark_used(h, pte, access);
    if (!(*pte & PTE_D))
        out->access &= ~(unsigned)ACCESS_WRITE;  /* the first write must come back to set D */
    out->physical = ((number & ~inside) << PAGE_BITS) | (va & ((inside << PAGE_BITS) | (PAGE_BYTES - 1)));
    return 0;
}

static int walk_tables(struct hart *h, const struct view *view, uint64_t va, enum access access, bool update,
                       struct translation *out)
{
    int levels = LEVELS_SV39 + (int)SATP_MODE(view->satp) - MODE_SV39;
    if (!canonical(va, levels))
        return page_fault(access);
    uint64_t table = (view->satp & PPN_MASK) << PAGE_BITS;
    for (int level = levels - 1; level >= 0; level--) {
        uint64_t address = table + (((va >> (PAGE_BITS + 9 * level)) & 511) << 3);
        if (!in_ram(h, address))
            return access_fault(access);
        uint64_t *pte = (uint64_t *)(h->ram + (address - RAM_BASE));
        out->from.page[out->from.count++] = (address - RAM_BASE) >> PAGE_BITS;
        if (!(*pte & PTE_V) || (*pte & PTE_RESERVED) || (*pte & (PTE_R | PTE_W)) == PTE_W)
            return page_fault(access);
        if (*pte & (PTE_R | PTE_X))
            return use_leaf(h, view, va, access, update, level, pte, out);
        if (*pte & (PTE_U | PTE_A | PTE_D))
            return page_fault(access);
        table = ((*pte >> 10) & PPN_MASK) << PAGE_BITS;
    }
    return page_fault(access);
}

/* Returns 0 and fills `out`, or returns the cause of the fault. With `update`, sets A and D as the access would. */
int walk(struct hart *h, const struct view *view, uint64_t va, enum access access, bool update, struct translation *out)
{
    out->from.count = 0;
    if (view->priv == MACHINE || SATP_MODE(view->satp) == 0) {
        out->physical = va;
        out->access = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
    } else {
        int cause = walk_tables(h, view, va, access, update, out);
        if (cause)
            return cause;
    }
    if (in_ram(h, out->physical))
        return 0;
    out->access &= ~(unsigned)ACCESS_EXEC;
    return mmio_covers(out->physical) && (out->access & access) ? 0 : access_fault(access);
}
