// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A look at all registers that changes nothing, for a debugger that pauses in the middle of an epoch.
 *
 * To read a CSR through uc_reg_read, the privilege has to be raised, and every write of it costs the guest its LR
 * reservation. So CSRs are read from a saved context, at positions found at birth: one register is changed, and what
 * changes in the context is its place. fcsr is not in there; it can be read without the privilege, but only while sstatus.FS
 * is on: else it is told as 0.
 */
#include "hart.h"

#include <string.h>

/* What sstatus shows of mstatus (privileged specification 1.12, section 4.1.1), as far as the engine has it. */
#define SSTATUS_MASK UINT64_C(0x80000000000de133)

static const struct {
    const char *name;
    int id;
    uint64_t probe;
} csrs[LOOK_CSRS] = {
    {"sepc", UC_RISCV_REG_SEPC, 0x1000},
    {"scause", UC_RISCV_REG_SCAUSE, 5},
    {"stval", UC_RISCV_REG_STVAL, 5},
    {"stvec", UC_RISCV_REG_STVEC, 0x1000},
    {"sscratch", UC_RISCV_REG_SSCRATCH, 5},
    {"sie", UC_RISCV_REG_MIE, MIP_S},
    {"scounteren", UC_RISCV_REG_SCOUNTEREN, 7},
    {"sip", UC_RISCV_REG_MIP, MIP_S},
};

/* The one word that differs between a register being 0 and being `probe`; false if not exactly one does. */
static bool locate(struct hart *h, int id, uint64_t probe, size_t *place)
{
    size_t size = uc_context_size(h->uc), found = 0;
    uint8_t before[size];
    reg_set(h, id, 0);
    uc_context_save(h->uc, h->peek.context);
    memcpy(before, h->peek.context, size);
    reg_set(h, id, probe);
    uc_context_save(h->uc, h->peek.context);
    const uint8_t *after = (const uint8_t *)h->peek.context;
    reg_set(h, id, 0);
    for (size_t i = 0; i + 4 <= size; i += 4) {
        if (!memcmp(before + i, after + i, 4))
            continue;
        if (found)
            return false;
        found = i;
    }
    *place = found;
    return found != 0;
}

bool look_locate_registers(struct hart *h)
{
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    reg_set(h, UC_RISCV_REG_MIDELEG, MIP_S);
    for (int i = 0; i < LOOK_CSRS; i++)
        if (!locate(h, csrs[i].id, csrs[i].probe, &h->looks[i]))
            return false;
    return true;
}

static uint64_t field(const struct hart *h, size_t offset, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)h->peek.context + offset, size);
    return value;
}

/* The CSR of this name as it is now; the caller has saved the context (fill_view does). */
uint64_t look_csr(const struct hart *h, const char *name)
{
    for (int i = 0; i < LOOK_CSRS; i++)
        if (!strcmp(csrs[i].name, name)) {
            bool narrow = csrs[i].id == UC_RISCV_REG_MIP;  /* 32 bits in the engine */
            return field(h, h->looks[i], narrow ? 4 : 8);
        }
    return 0;
}

uint64_t look_fcsr(struct hart *h, const struct view *view)
{
    return view->status & SSTATUS_FS ? reg_get(h, UC_RISCV_REG_FCSR) : 0;
}

uint64_t look_sstatus(const struct view *view)
{
    return view->status & SSTATUS_MASK;
}
