// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The RISC-V supervisor binary interface 2.0, for a machine of one hart with number 0.
 *
 *   here                        BASE, TIME, IPI, RFENCE, HSM, and legacy set_timer
 *   passed to the machine       everything else: consoles, SRST, and what it does not know
 *
 * BASE's probe of an extension that is not served here is passed on as well, as (BASE, 3, extension).
 *
 * The table at the end is the whole of it; what each function does, in words, is for the machine's reference page.
 */
#include "hart.h"

enum { LEGACY_SET_TIMER = 0, LEGACY_LAST = 0xf, EXT_BASE = 0x10, EXT_TIME = 0x54494d45, EXT_IPI = 0x735049,
       EXT_RFENCE = 0x52464e43, EXT_HSM = 0x48534d };
enum { SBI_OK = 0, SBI_FAILED = -1, SBI_NOT_SUPPORTED = -2, SBI_INVALID_PARAM = -3, SBI_ALREADY_AVAILABLE = -6 };
enum { BASE_SPEC_VERSION, BASE_IMPLEMENTATION_ID, BASE_IMPLEMENTATION_VERSION, BASE_PROBE };
enum { RFENCE_I };
enum { HSM_START, HSM_STOP };
#define SPEC_VERSION (2u << 24)
#define IMPLEMENTATION_ID 0x6674766d
#define IMPLEMENTATION_VERSION 1

struct call {
    uint64_t function, args[6], value;
};

typedef int serve(struct hart *h, struct call *call);  /* returns the error; the value is 0 if it says nothing else */

struct extension {
    uint64_t id;
    const char *name;
    serve *serve;  /* for functions below FUNCTIONS_MAX that have a name */
    struct sbi_function functions[SBI_FUNCTIONS_MAX];
};
static const struct extension *find(uint64_t id);

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
        if (!find(call->args[0]))
            return pass_on(h, EXT_BASE, call);
        call->value = 1;
        return SBI_OK;
    default:  /* machine vendor, architecture and implementation: 0 */
        return SBI_OK;
    }
}

static int set_timer(struct hart *h, struct call *call)
{
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
    int error = hart_mask(call->args, &this_hart);
    if (error == SBI_OK && this_hart)
        csr_set(h, UC_RISCV_REG_MIP, csr_get(h, UC_RISCV_REG_MIP) | MIP_SSIP);
    return error;
}

static int remote_fence(struct hart *h, struct call *call)
{
    bool this_hart;
    int error = hart_mask(call->args, &this_hart);
    if (error == SBI_OK && this_hart && call->function != RFENCE_I)
        pages_flush_tlb(h);
    return error;
}

static int hart_state(struct hart *h, struct call *call)
{
    (void)h;
    switch (call->function) {
    case HSM_START:
        return call->args[0] == 0 ? SBI_ALREADY_AVAILABLE : SBI_INVALID_PARAM;
    case HSM_STOP:
        return SBI_FAILED;  /* nobody is left to start it again */
    default:
        call->value = 0;    /* started */
        return call->args[0] == 0 ? SBI_OK : SBI_INVALID_PARAM;
    }
}

static const struct extension extensions[] = {
    {EXT_TIME, "TIME", set_timer, {{"set_timer", "the timer interrupt is pending from that guest time on; ~0 disarms it"}}},
    {EXT_RFENCE, "RFENCE", remote_fence, {
        {"remote_fence_i", "nothing is left to do: code is coherent"},
        {"remote_sfence_vma", "flushes all translations"},
        {"remote_sfence_vma_asid", "flushes all translations"}}},
    {EXT_IPI, "IPI", send_ipi, {{"send_ipi", "raises this hart's software interrupt"}}},
    {EXT_BASE, "BASE", base, {
        {"get_spec_version", "2.0"},
        {"get_impl_id", "0x6674766d"},
        {"get_impl_version", "1"},
        {"probe_extension", "1 for the extensions in this table, else 0"},
        {"get_mvendorid", "0"},
        {"get_marchid", "0"},
        {"get_mimpid", "0"}}},
    {EXT_HSM, "HSM", hart_state, {
        {"hart_start", "hart 0 is started already; there is no other"},
        {"hart_stop", "fails: nobody would be left to start it again"},
        {"hart_get_status", "0, started"}}},
    {LEGACY_SET_TIMER, "legacy set_timer", set_timer, {{"set_timer", "as TIME's"}}},
    {0},
};

static const struct extension *find(uint64_t id)
{
    for (const struct extension *found = extensions; found->serve; found++)
        if (found->id == id)
            return found;
    return NULL;
}

const struct sbi_function *sbi_functions(unsigned index, uint64_t *id, const char **name)
{
    if (index + 1 >= sizeof extensions / sizeof *extensions)
        return NULL;
    *id = extensions[index].id;
    *name = extensions[index].name;
    return extensions[index].functions;
}

static int dispatch(struct hart *h, uint64_t id, struct call *call)
{
    const struct extension *extension = find(id);
    if (!extension)
        return pass_on(h, id, call);
    if (id <= LEGACY_LAST)
        call->function = 0;
    else if (call->function >= SBI_FUNCTIONS_MAX || !extension->functions[call->function].name)
        return SBI_NOT_SUPPORTED;
    return extension->serve(h, call);
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
