// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Instruction fields: what a faulting load or store addressed, which counter an instruction reads, what is to be refused.
 *
 * Unprivileged specification: base and F/D loads and stores (sections 2.6, 11.5, 12.3), A (8), C (16.3, quadrants 0
 * and 2), and the CSR instructions (9.1).
 */
#include "hart.h"

enum { OP_LOAD = 0x03, OP_LOAD_FP = 0x07, OP_STORE = 0x23, OP_STORE_FP = 0x27, OP_AMO = 0x2f, OP_SYSTEM = 0x73 };
enum { AMO_LR = 2 };

unsigned insn_size(uint32_t insn)
{
    return (insn & 3) == 3 ? 4 : 2;
}

static unsigned bits(uint32_t insn, int low, int count)
{
    return (insn >> low) & ((1u << count) - 1);
}

static bool full_access(uint32_t insn, struct memory_access *m)
{
    m->base = INSN_RS1(insn);
    m->size = 1u << bits(insn, 12, 2);
    m->offset = 0;
    switch (insn & 0x7f) {
    case OP_LOAD:
    case OP_LOAD_FP:
        m->offset = (int32_t)insn >> 20;
        m->store = false;
        return true;
    case OP_STORE:
    case OP_STORE_FP:
        m->offset = ((int32_t)insn >> 25) * 32 + (int32_t)bits(insn, 7, 5);
        m->store = true;
        return true;
    case OP_AMO:
        m->store = bits(insn, 27, 5) != AMO_LR;
        return true;
    default:
        return false;
    }
}

/* Offsets scaled by 4 and by 8 of c.lw/c.sw and c.ld/c.sd/c.fld/c.fsd. */
static unsigned register_offset(uint32_t insn, unsigned size)
{
    unsigned common = bits(insn, 10, 3) << 3;
    return size == 4 ? common | bits(insn, 6, 1) << 2 | bits(insn, 5, 1) << 6 : common | bits(insn, 5, 2) << 6;
}

static unsigned stack_load_offset(uint32_t insn, unsigned size)
{
    unsigned common = bits(insn, 12, 1) << 5;
    return size == 4 ? common | bits(insn, 4, 3) << 2 | bits(insn, 2, 2) << 6
                     : common | bits(insn, 5, 2) << 3 | bits(insn, 2, 3) << 6;
}

static unsigned stack_store_offset(uint32_t insn, unsigned size)
{
    return size == 4 ? bits(insn, 9, 4) << 2 | bits(insn, 7, 2) << 6 : bits(insn, 10, 3) << 3 | bits(insn, 7, 3) << 6;
}

/* Functions 1 to 3 load, 5 to 7 store: fld, lw, ld, fsd, sw, sd, in quadrant 0 by register and in 2 by stack pointer. */
static bool short_access(uint32_t insn, struct memory_access *m)
{
    unsigned function = bits(insn, 13, 3), quadrant = insn & 3;
    if ((function & 3) == 0 || quadrant == 1)
        return false;
    m->size = (function & 3) == 2 ? 4 : 8;
    m->store = function > 4;
    if (quadrant == 0) {
        m->base = 8 + bits(insn, 7, 3);
        m->offset = register_offset(insn, m->size);
    } else {
        m->base = 2;
        m->offset = m->store ? stack_store_offset(insn, m->size) : stack_load_offset(insn, m->size);
    }
    return true;
}

bool insn_memory_access(uint32_t insn, struct memory_access *m)
{
    return insn_size(insn) == 4 ? full_access(insn, m) : short_access(insn, m);
}

/*
 * csrrs, csrrc, csrrsi or csrrci on cycle, time or instret. The engine would let them read these even with a source
 * register that is not x0 but holds 0; the specification calls every such instruction illegal.
 */
bool insn_reads_counter(uint32_t insn, unsigned *csr)
{
    *csr = insn >> 20;
    return (insn & 0x7f) == OP_SYSTEM && bits(insn, 12, 2) >= 2 && *csr >= 0xc00 && *csr <= 0xc02;
}

/* A CSR instruction on satp, whether it writes or not. */
bool insn_touches_satp(uint32_t insn)
{
    return (insn & 0x7f) == OP_SYSTEM && bits(insn, 12, 2) && insn >> 20 == 0x180;
}

/*
 * Instructions that the engine executes though they are illegal:
 *   - compressed ones that are reserved, taken for nops: quadrant 0 function 4, and what follows c.addw in quadrant 1
 *   - reads of hpmcounter3 to 31, which the machine lacks
 */
bool insn_is_refused(uint32_t insn)
{
    if (insn_size(insn) == 2)
        return (insn & 0xe003) == 0x8000 || (insn & 0xfc43) == 0x9c41;
    return (insn & 0x7f) == OP_SYSTEM && bits(insn, 12, 2) && insn >> 20 > 0xc02 && insn >> 20 <= 0xc1f;
}

/* Those that it executes even while floating point is off: fsgnj.d and its kin; c.fld, c.fsd, c.fldsp, c.fsdsp as nops. */
bool insn_evades_fp(uint32_t insn)
{
    if (insn_size(insn) == 2)
        return (insn & 1) == 0 && (bits(insn, 13, 3) & 3) == 1;
    return (insn & 0xfe00007f) == 0x22000053;
}

/* Writes fflags, frm or fcsr. */
bool insn_writes_fcsr(uint32_t insn)
{
    unsigned function = bits(insn, 12, 3);
    return (insn & 0x7f) == OP_SYSTEM && insn >> 20 >= 1 && insn >> 20 <= 3 && (function & 3)
        && ((function & 3) == 1 || INSN_RS1(insn));
}

/* A four-byte instruction that begins two bytes before the end of the page, reached from pc without a jump; or 0. */
uint64_t insn_straddler(struct hart *h, uint64_t pc)
{
    uint64_t last = (pc | (PAGE_BYTES - 1)) - 1;
    uint32_t insn;
    uint16_t low;
    while (pc < last && fill_fetch(h, pc, &insn))
        pc += insn_size(insn);
    return pc == last && fill_short(h, pc, &low) && insn_size(low) == 4 ? pc : 0;
}
