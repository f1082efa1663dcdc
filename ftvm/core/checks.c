// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Leaving out the engine's check for an exit after every load and store.
 *
 * Unicorn calls a helper behind each memory access of the guest, for hooks that stop it there: registers go to memory
 * and come back around each call, a fifth of a guest's time. This core stops at block entries only, where a check of
 * its own remains. The engine has a switch for it (`no_exit_request`, which its ARM front end uses while it translates
 * an IT block), but no function that sets it. It is found in the engine's structure by what surrounds it, and tried:
 * a hart is not born on an engine that does not do what is expected.
 *
 *   translated      a hook on an instruction that moves pc     where blocks end
 *   with checks     the instruction is left out                long ones at another place, since the engine also ends
 *   without         the instruction is executed all the same   a block after so many operations of its own
 *
 * So what is translated with checks must depend on the guest's code alone: see counters.c.
 */
#include "hart.h"

#include <malloc.h>
#include <setjmp.h>

enum { NESTED_MAX = 64 };

/* The end of the engine's structure, as version 2.1.4 has it. */
struct engine_tail {
    bool hook_insert, first_block, no_exit_request, init_done;
    sigjmp_buf jumps[NESTED_MAX];
    int nested;
    void *last_block, *empty_view;
    uint32_t translation_buffer;
};

static bool is_flag(const bool *flag, unsigned highest)
{
    return *(const uint8_t *)flag <= highest;
}

static bool looks_right(const struct engine_tail *tail)
{
    return is_flag(&tail->hook_insert, 0) && is_flag(&tail->first_block, 1) && is_flag(&tail->no_exit_request, 0)
        && is_flag(&tail->init_done, 1) && tail->init_done && tail->nested == 0;
}

/* The one place where the size that the translation buffer was given stands among the right neighbours. */
static bool *find_switch(uc_engine *uc, uint32_t translation_buffer)
{
    uint8_t *begin = (uint8_t *)uc;
    size_t size = malloc_usable_size(uc);
    bool *found = NULL;
    for (size_t at = 0; at + sizeof(struct engine_tail) <= size; at += sizeof(void *)) {
        struct engine_tail *tail = (struct engine_tail *)(begin + at);
        if (tail->translation_buffer != translation_buffer || !looks_right(tail))
            continue;
        if (found)
            return NULL;
        found = &tail->no_exit_request;
    }
    return found;
}

void checks_leave_out(struct hart *h, bool leave_out)
{
    *h->no_checks = leave_out;
}

static void skip_instruction(uc_engine *uc, uint64_t address, uint32_t size, void *hart)
{
    reg_set(hart, UC_RISCV_REG_PC, address + size);
}

/* Does an instruction run although a hook on it moved pc? -1: cannot tell. */
static int runs_all_the_same(struct hart *h, bool without_checks)
{
    static const uint32_t code[] = {0x00128293 /* addi t0, t0, 1 */, 0x10500073 /* wfi */};
    uc_hook hook;
    for (unsigned i = 0; i < sizeof code; i++)
        h->ram[i] = ((const uint8_t *)code)[i];
    checks_leave_out(h, without_checks);
    reg_set(h, UC_RISCV_REG_PRIV, SUPERVISOR);
    reg_set(h, UC_RISCV_REG_X5, 0);
    if (uc_hook_add(h->uc, &hook, UC_HOOK_CODE, skip_instruction, h, RAM_BASE, RAM_BASE) != UC_ERR_OK)
        return -1;
    bool ran = uc_emu_start(h->uc, RAM_BASE, 0, 0, 0) == UC_ERR_OK;
    ran = uc_hook_del(h->uc, hook) == UC_ERR_OK && ran;
    uc_ctl_flush_tb(h->uc);
    for (unsigned i = 0; i < sizeof code; i++)
        h->ram[i] = 0;
    return ran ? (int)reg_get(h, UC_RISCV_REG_X5) : -1;
}

/* On a new engine without hooks: checks are left out from here on. False on an engine that is not as it should be. */
bool checks_begin(struct hart *h, uint32_t translation_buffer)
{
    h->no_checks = find_switch(h->uc, translation_buffer);
    if (!h->no_checks)
        return false;
    return runs_all_the_same(h, false) == 0 && runs_all_the_same(h, true) == 1;
}
