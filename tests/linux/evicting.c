// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A core whose TLB forgets at random: linked around the fill hook's call of pages_derive (ld --wrap), it flushes the
 * TLB before one fill in FTVM_TEST_EVICT_EVERY, by a generator seeded with FTVM_TEST_EVICT_SEED. So it stands for
 * engines on other hosts, whose TLBs keep other entries. With -DINCOHERENT it also leaves out the rule that keeps the
 * TLB as new as the page tables: what the guest sees then depends on what was forgotten.
 */
#include "hart.h"

#include <stdlib.h>

unsigned __real_pages_derive(struct hart *, uint64_t, enum access, unsigned, const struct tables *);
unsigned __wrap_pages_derive(struct hart *, uint64_t, enum access, unsigned, const struct tables *);

static uint64_t number(const char *name)
{
    const char *text = getenv(name);
    if (!text)
        abort();  /* this core is for one test only */
    return strtoull(text, NULL, 10);
}

static uint64_t chance(void)
{
    static uint64_t state;
    if (!state)
        state = number("FTVM_TEST_EVICT_SEED") * UINT64_C(0x9e3779b97f4a7c15) | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

unsigned __wrap_pages_derive(struct hart *h, uint64_t index, enum access access, unsigned allowed,
                             const struct tables *from)
{
    static uint64_t every;
    if (!every)
        every = number("FTVM_TEST_EVICT_EVERY");
    if (chance() % every == 0)
        pages_flush_tlb(h);
#ifdef INCOHERENT
    return allowed;
#else
    return __real_pages_derive(h, index, access, allowed, from);
#endif
}
