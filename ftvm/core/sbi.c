// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The RISC-V supervisor binary interface 2.0, for a machine of one hart with number 0.
 *
 *   here                        BASE, TIME, IPI, RFENCE, HSM, and legacy set_timer
 *   passed to the machine       everything else: consoles, SRST, and what it does not know
 *
 * BASE's probe of an extension that is not served here is passed on as well, as (BASE, 3, extension).
 */
#include "hart.h"

enum { LEGACY_SET_TIMER = 0, LEGACY_LAST = 0xf, EXT_BASE = 0x10, EXT_TIME = 0x54494d45, EXT_IPI = 0x735049,
       EXT_RFENCE = 0x52464e43, EXT_HSM = 0x48534d };
enum { SBI_OK = 0, SBI_FAILED = -1, SBI_NOT_SUPPORTED = -2, SBI_INVALID_PARAM = -3, SBI_ALREADY_AVAILABLE = -6 };
enum { BASE_SPEC_VERSION, BASE_IMPLEMENTATION_ID, BASE_IMPLEMENTATION_VERSION, BASE_PROBE, BASE_LAST = 6 };
enum { RFENCE_I, RFENCE_VMA, RFENCE_VMA_ASID };
enum { HSM_START, HSM_STOP, HSM_STATUS };
#define SPEC_VERSION (2u << 24)
#define IMPLEMENTATION_ID 0x6674766d
#define IMPLEMENTATION_VERSION 1

struct call {
    uint64_t function, args[6], value;
};

static int pass_on(struct hart *h, uint64_t extension, struct call *call)
{
    uint64_t result[2] = {(uint64_t)SBI_NOT_SUPPORTED, 0};
    if (h->up.sbi)
        h->up.sbi(h, extension, call->function, call->args, result);
    call->value = result[1];
    return (int)(int64_t)result[0];
}

static int base(struct hart *h, struct call *call)
{
    switch (call->function) {
    case BASE_SPEC_VERSION:
        call->value = SPEC_VERSION;
        return SBI_OK;
    case BASE_IMPLEMENTATION_ID:
        call->value = IMPLEMENTATION_ID;
        return SBI_OK;
    case BASE_IMPLEMENTATION_VERSION:
        call->value = IMPLEMENTATION_VERSION;
        return SBI_OK;
    case BASE_PROBE:
        switch (call->args[0]) {
        case LEGACY_SET_TIMER:
        case EXT_BASE:
        case EXT_TIME:
        case EXT_IPI:
        case EXT_RFENCE:
        case EXT_HSM:
            call->value = 1;
            return SBI_OK;
        default:
            return pass_on(h, EXT_BASE, call);
        }
    default:  /* machine vendor, architecture and implementation: 0 */
        return call->function <= BASE_LAST ? SBI_OK : SBI_NOT_SUPPORTED;
    }
}

static int set_timer(struct hart *h, struct call *call)
{
    if (call->function != 0)
        return SBI_NOT_SUPPORTED;
    clock_set_timer(h, call->args[0]);
    return SBI_OK;
}

/* Whether a hart mask (mask, base) names this hart, and no other. */
static int hart_mask(const uint64_t *args, bool *this_hart)
{
    bool all = args[1] == UINT64_MAX;
    *this_hart = all || (args[1] == 0 && (args[0] & 1));
    bool others = !all && (args[1] ? args[0] != 0 : args[0] > 1);
    return others ? SBI_INVALID_PARAM : SBI_OK;
}

static int send_ipi(struct hart *h, struct call *call)
{
    bool this_hart;
    if (call->function != 0)
        return SBI_NOT_SUPPORTED;
    int error = hart_mask(call->args, &this_hart);
    if (error == SBI_OK && this_hart)
        csr_set(h, UC_RISCV_REG_MIP, csr_get(h, UC_RISCV_REG_MIP) | MIP_SSIP);
    return error;
}

static int remote_fence(struct hart *h, struct call *call)
{
    bool this_hart;
    if (call->function > RFENCE_VMA_ASID)
        return SBI_NOT_SUPPORTED;
    int error = hart_mask(call->args, &this_hart);
    if (error == SBI_OK && this_hart && call->function != RFENCE_I)
        pages_flush_tlb(h);
    return error;
}

static int hart_state(struct call *call)
{
    switch (call->function) {
    case HSM_START:
        return call->args[0] == 0 ? SBI_ALREADY_AVAILABLE : SBI_INVALID_PARAM;
    case HSM_STOP:
        return SBI_FAILED;  /* nobody is left to start it again */
    case HSM_STATUS:
        call->value = 0;    /* started */
        return call->args[0] == 0 ? SBI_OK : SBI_INVALID_PARAM;
    default:
        return SBI_NOT_SUPPORTED;
    }
}

static int dispatch(struct hart *h, uint64_t extension, struct call *call)
{
    switch (extension) {
    case EXT_BASE:
        return base(h, call);
    case EXT_TIME:
        return set_timer(h, call);
    case LEGACY_SET_TIMER:
        call->function = 0;
        return set_timer(h, call);
    case EXT_IPI:
        return send_ipi(h, call);
    case EXT_RFENCE:
        return remote_fence(h, call);
    case EXT_HSM:
        return hart_state(call);
    default:
        return pass_on(h, extension, call);
    }
}

/* The guest executed ecall in supervisor mode; pc is past it already. */
void sbi_call(struct hart *h)
{
    struct call call = {.function = reg_get(h, UC_RISCV_REG_X16)};
    uint64_t extension = reg_get(h, UC_RISCV_REG_X17);
    for (int i = 0; i < 6; i++)
        call.args[i] = reg_get(h, UC_RISCV_REG_X10 + i);
    h->count.sbi_calls++;
    h->barren_traps = 0;
    int error = dispatch(h, extension, &call);
    if (extension <= LEGACY_LAST) {
        reg_set(h, UC_RISCV_REG_X10, call.value);
        return;
    }
    reg_set(h, UC_RISCV_REG_X10, (uint64_t)(int64_t)error);
    reg_set(h, UC_RISCV_REG_X11, call.value);
}
