// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hart's architectural state as an array of words, in the order of the table below: what is digested, saved,
 * restored and shown. The engine's own context is not used for this: it is bound to a build, and it lacks fflags.
 *
 * Not part of it: RAM; translations, page states and the TLB, which never show; the LR reservation, which is dropped at
 * every epoch's start.
 */
#include "hart.h"

#include <string.h>

struct word {
    const char *name;
    int id;  /* of the engine's register; 0: kept by the core */
};

#define X(n) {"x" #n, UC_RISCV_REG_X##n}
#define F(n) {"f" #n, UC_RISCV_REG_F##n}
#define CSR(name, id) {name, UC_RISCV_REG_##id}
static const struct word words_table[] = {
    X(1), X(2), X(3), X(4), X(5), X(6), X(7), X(8), X(9), X(10), X(11), X(12), X(13), X(14), X(15), X(16),
    X(17), X(18), X(19), X(20), X(21), X(22), X(23), X(24), X(25), X(26), X(27), X(28), X(29), X(30), X(31),
    F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7), F(8), F(9), F(10), F(11), F(12), F(13), F(14), F(15),
    F(16), F(17), F(18), F(19), F(20), F(21), F(22), F(23), F(24), F(25), F(26), F(27), F(28), F(29), F(30), F(31),
    CSR("fcsr", FCSR), CSR("sepc", SEPC), CSR("scause", SCAUSE), CSR("stval", STVAL), CSR("stvec", STVEC),
    CSR("sscratch", SSCRATCH), CSR("sie", MIE), CSR("satp", SATP), CSR("scounteren", SCOUNTEREN), CSR("pc", PC),
    /* From here on written by hand, since order or privilege matters. */
    {"priv", 0}, {"sstatus", 0}, {"sip", 0}, {"clock", 0}, {"time", 0}, {"timer", 0}, {"external", 0},
    {"mmio_digest", 0}, {"barren_traps", 0}, {"barren_clock", 0},
};
enum { WORDS = sizeof words_table / sizeof *words_table, PLAIN = 31 + 32 + 10 };
enum { PRIV = PLAIN, SSTATUS, SIP, CLOCK, TIME, TIMER, EXTERNAL, MMIO_DIGEST, BARREN_TRAPS, BARREN_CLOCK };
_Static_assert((int)WORDS <= (int)STATE_WORDS, "STATE_WORDS is too small");
_Static_assert((int)BARREN_CLOCK == (int)WORDS - 1, "the table and its indices differ");
enum { FCSR_WORD = 31 + 32 };
#define CLOCK_MAX (UINT64_C(1) << 62) /* some 70 years at 2 GB of code a second; so sums with budgets never wrap */

unsigned state_count(void)
{
    return WORDS;
}

const char *state_name(unsigned word)
{
    return words_table[word].name;
}

static void plain_arguments(uint64_t words[STATE_WORDS], int ids[PLAIN], void *values[PLAIN])
{
    for (int i = 0; i < PLAIN; i++) {
        ids[i] = words_table[i].id;
        values[i] = &words[i];
    }
}

static void collect_registers(struct hart *h, uint64_t words[STATE_WORDS])
{
    int ids[PLAIN];
    void *values[PLAIN];
    plain_arguments(words, ids, values);
    words[PRIV] = reg_get(h, UC_RISCV_REG_PRIV);
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    words[SSTATUS] = reg_get(h, UC_RISCV_REG_SSTATUS);
    words[SIP] = reg_get(h, UC_RISCV_REG_MIP) & MIP_S;
    bool fp_off = !(words[SSTATUS] & SSTATUS_FS);
    if (fp_off)  /* fcsr cannot be read then, and the engine says so by leaving garbage */
        reg_set(h, UC_RISCV_REG_SSTATUS, words[SSTATUS] | SSTATUS_FS);
    uc_reg_read_batch(h->uc, ids, values, PLAIN);
    if (fp_off)
        reg_set(h, UC_RISCV_REG_SSTATUS, words[SSTATUS]);
    reg_set(h, UC_RISCV_REG_PRIV, words[PRIV]);
}

static void collect_rest(struct hart *h, uint64_t words[STATE_WORDS])
{
    words[CLOCK] = h->clock;
    words[TIME] = hart_time(h);
    words[TIMER] = h->timer;
    words[EXTERNAL] = h->external;
    words[MMIO_DIGEST] = h->mmio_digest;
    words[BARREN_TRAPS] = h->barren_traps;
    words[BARREN_CLOCK] = h->barren_clock;
}

void state_collect(struct hart *h, uint64_t words[STATE_WORDS])
{
    collect_registers(h, words);
    collect_rest(h, words);
}

/* The same without a trace (look.c). */
void state_look(struct hart *h, uint64_t words[STATE_WORDS])
{
    struct view view;
    fill_view(h, &view);
    for (int i = 0; i < PLAIN; i++) {
        int id = words_table[i].id;
        if (id == UC_RISCV_REG_FCSR)
            words[i] = look_fcsr(h, &view);
        else if (id == UC_RISCV_REG_SATP)
            words[i] = view.satp;
        else if (id == UC_RISCV_REG_PC || i < FCSR_WORD)
            words[i] = reg_get(h, id);
        else
            words[i] = look_csr(h, words_table[i].name);
    }
    words[PRIV] = view.priv;
    words[SSTATUS] = look_sstatus(&view);
    words[SIP] = look_csr(h, "sip") & MIP_S;
    collect_rest(h, words);
}

uint64_t state_digest(struct hart *h)
{
    uint64_t words[STATE_WORDS], digest = UINT64_C(0x9e3779b97f4a7c15);
    state_collect(h, words);
    for (int i = 0; i < WORDS; i++)
        digest = mix(digest, words[i]);
    return digest;
}

static void install_registers(struct hart *h, const uint64_t words[STATE_WORDS])
{
    int ids[PLAIN];
    void *values[PLAIN];
    uint64_t copy[STATE_WORDS];
    memcpy(copy, words, sizeof copy);
    plain_arguments(copy, ids, values);
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    reg_set(h, UC_RISCV_REG_MIDELEG, MIP_S);
    reg_set(h, UC_RISCV_REG_MCOUNTEREN, 7);
    reg_set(h, UC_RISCV_REG_SSTATUS, SSTATUS_FS);  /* so that fcsr can be written */
    uc_reg_write_batch(h->uc, ids, values, PLAIN);
    reg_set(h, UC_RISCV_REG_SSTATUS, words[SSTATUS]);
    reg_set(h, UC_RISCV_REG_MIP, words[SIP]);      /* also sets the engine's flag that something is pending */
    reg_set(h, UC_RISCV_REG_PRIV, words[PRIV]);
}

/* Returns NULL, or what is wrong with the words. With `keep_code`, RAM's writers have said what they wrote (pages.c). */
const char *state_install(struct hart *h, const uint64_t words[STATE_WORDS], bool keep_code)
{
    if (words[PRIV] != USER && words[PRIV] != SUPERVISOR)
        return "a privilege that the guest cannot have";
    if (words[SIP] & ~(uint64_t)MIP_S || words[EXTERNAL] > 1)
        return "an interrupt line that does not exist";
    if (words[CLOCK] > CLOCK_MAX || words[TIME] > CLOCK_MAX)
        return "a clock or a time that no guest reaches";
    install_registers(h, words);
    h->clock = words[CLOCK];
    h->pending = 0;
    h->epoch_clock = h->epoch_limit = h->clock;
    h->epoch_time = h->epoch_time_max = words[TIME];
    h->timer = words[TIMER];
    h->external = words[EXTERNAL];
    h->lines = -1;
    h->mmio_digest = words[MMIO_DIGEST];
    h->barren_traps = words[BARREN_TRAPS];
    h->barren_clock = words[BARREN_CLOCK];
    h->failed = h->paused = false;
    h->error[0] = 0;
    debug_forget(h);
    if (keep_code)
        pages_forget_tlb(h);
    else
        pages_drop_all(h);
    return NULL;
}

/* A cold hart at pc, as the firmware hands it to a kernel; the clock and guest time go on. */
void state_reset(struct hart *h, uint64_t pc, uint64_t a0, uint64_t a1)
{
    uint64_t words[STATE_WORDS] = {0};
    words[10 - 1] = a0;
    words[11 - 1] = a1;
    for (int i = 0; i < PLAIN; i++)
        if (words_table[i].id == UC_RISCV_REG_SCOUNTEREN)
            words[i] = 7;
        else if (words_table[i].id == UC_RISCV_REG_PC)
            words[i] = pc;
    words[PRIV] = SUPERVISOR;
    words[CLOCK] = h->clock;
    words[TIME] = hart_time(h);
    words[TIMER] = NEVER;
    words[MMIO_DIGEST] = h->mmio_digest;
    words[EXTERNAL] = h->external;
    state_install(h, words, false);
}
