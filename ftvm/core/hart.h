// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The C core: one deterministic RISC-V 64 S-mode hart on the Unicorn engine.
 *
 * Everything that happens once per block, per TLB miss, per trap or per device access lives here; everything that
 * happens once per epoch may live in Python. The core knows no Python: it calls out through `struct upcalls`, which
 * module.c fills. A hart owns all its state, so a process may hold several.
 *
 *   file        noun
 *   epoch.c     the clock (bytes retired + 1 per synchronous trap), guest time, slices, the run loop
 *   walk.c      virtual to physical: Sv39/48/57 page tables with A and D updates
 *   pages.c     page states (code or writable, never both in the TLB), dirty pages, writes by the host
 *   snapshot.c  RAM as it was between two epochs, read while the guest runs on
 *   fill.c      the TLB fill hook, and which physical page each executable translation came from
 *   insn.c      instruction fields: what a load or store addressed, what a counter read names
 *   checks.c    leaving out the engine's check for an exit after every memory access
 *   counters.c  cycle, instret and time as functions of the clock
 *   trap.c      trap entry, the engine's exceptions, page faults
 *   sbi.c       the supervisor binary interface, as far as it concerns the hart alone
 *   mmio.c      the device windows
 *   look.c      all registers without a trace, for the debugger
 *   debug.c     pauses at any instruction, breakpoints, watched memory
 *   state.c     registers as an array of words: digest, save, restore, reset
 *   hart.c      birth and death
 *   module.c    the Python type; module_ram.c: those of its methods that concern RAM
 *   describe.c  the tables of this directory, for the machine's reference page
 *
 * The engine's habits that this rests on are those of exactly version 2.1.4 (checked in ftvm/hart.py).
 */
#ifndef FTVM_HART_H
#define FTVM_HART_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unicorn/unicorn.h>

#define RAM_BASE UINT64_C(0x80000000)
#define PAGE_BITS 12
#define PAGE_BYTES (UINT64_C(1) << PAGE_BITS)
#define PAGE_MASK (~(PAGE_BYTES - 1))

#define BYTES_PER_TICK 120       /* guest time: bytes of retired code per 100 ns tick */
#define BARREN_TRAPS_MAX 100000  /* consecutive traps without one retired byte: the guest is lost */
#define NEVER UINT64_MAX

enum privilege { USER = 0, SUPERVISOR = 1, MACHINE = 3 };

/* Privileged specification 1.12, table 3.6. */
enum cause {
    CAUSE_FETCH_ACCESS = 1,
    CAUSE_ILLEGAL = 2,
    CAUSE_BREAKPOINT = 3,
    CAUSE_LOAD_MISALIGNED = 4,
    CAUSE_LOAD_ACCESS = 5,
    CAUSE_STORE_MISALIGNED = 6,
    CAUSE_STORE_ACCESS = 7,
    CAUSE_ECALL = 8,
    CAUSE_FETCH_PAGE = 12,
    CAUSE_LOAD_PAGE = 13,
    CAUSE_STORE_PAGE = 15,
};

enum { SSTATUS_SIE = 1 << 1, SSTATUS_SPIE = 1 << 5, SSTATUS_SPP = 1 << 8, SSTATUS_FS = 3 << 13, SSTATUS_SUM = 1 << 18,
       SSTATUS_MXR = 1 << 19 };
enum { MIP_SSIP = 1 << 1, MIP_STIP = 1 << 5, MIP_SEIP = 1 << 9, MIP_S = MIP_SSIP | MIP_STIP | MIP_SEIP };

/* Same bits as UC_PROT_*, and as the R, W, X bits of a page table entry shifted right by one. */
enum access { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_EXEC = 4 };

enum stop_reason { STOP_LIMIT = 0, STOP_IDLE = 1, STOP_ASKED = 2, STOP_GUEST_ERROR = 3, STOP_PAUSED = 4 };

/*
 * What the TLB may hold for a physical page, and so what may have become stale:
 *   NONE      no write and no execution since the last flush
 *   CODE      may have translations; writes come back to the fill hook
 *   WRITABLE  has no translations; execution comes back to the fill hook
 *   MIXED     flips often through a writable and executable alias: the engine checks every store through it
 *   HOOKED    flips often through separate aliases: a hook that never fires makes the engine check every store to it
 */
enum page_state { PAGE_NONE, PAGE_CODE, PAGE_WRITABLE, PAGE_MIXED, PAGE_HOOKED };

struct page {
    uint8_t state;
    uint8_t dirty;    /* bit N: written since series N last began */
    uint8_t hooked;   /* the write hook of HOOKED is in place; it stays */
    uint8_t written;  /* waits in hart.written */
    _Atomic uint8_t pending;  /* bit N: the snapshot of series N has not read this page */
    uint16_t flips;
    uint64_t table;   /* equal to hart.tlb_age: the TLB may hold what a page table on this page says */
};

struct list {
    uint64_t *items;
    size_t count, room;
};

enum { SERIES_MAX = 8, DIRTY_DIGEST = 1 << 0, DIRTY_ALL = 0xff };

/* A row of snapshots, with the one that is being read; see snapshot.c. */
struct series {
    bool open, begun, exact;
    uint64_t ends;        /* counts snapshots that are over: whoever was taking from one stops */
    uint64_t left;        /* pages to be taken */
    uint64_t next;        /* no page before it is pending */
    uint8_t *kept;        /* as large as RAM: copies of pages, each at its own place; NULL unless exact */
    uint64_t *kept_bits;  /* which of them are there */
    uint64_t kept_from;   /* word of `kept_bits` to look at first */
    uint64_t copies;      /* how many */
};

/* Pages of a snapshot on their way out. */
struct batch {
    uint32_t *numbers, *zeros;  /* of pages that hold something, and of others */
    uint8_t *content;
    uint64_t count, zeros_count;
};

/* Which physical page the engine last made executable at a virtual page: what a translation was made from. */
struct fetch_entry {
    uint64_t tag;     /* virtual page number * 4 + privilege + 1; 0 is free */
    uint64_t page;    /* index of the RAM page */
};
#define FETCH_ENTRIES 8192

/* Registers that the guest's privilege hides from uc_reg_read, found by position in the engine's saved context. */
struct peek {
    uc_context *context;
    size_t priv, satp, mstatus;
};

enum { LOOK_CSRS = 8 };

struct view {  /* of the translation registers */
    uint64_t priv, satp, status;
};

struct fault {
    bool on;
    enum access access;
    uint64_t pc, page, priv, cause;
};

enum hit_kind { HIT_BREAKPOINT, HIT_READ, HIT_WRITE, HIT_DEVICE };
enum { HIT_WORDS = 4 };  /* clock, address, value, kind | size << 8 */

struct debug {
    bool on;                    /* debug_on_block is the block hook */
    bool record;                /* breakpoints are noted, and do not pause */
    bool inside, entered, found, skip, hooked;
    uint64_t pause;             /* clock to pause at, or NEVER */
    uint64_t skip_clock;        /* where it paused last: not again before it has moved */
    uint64_t from, target, end; /* of the block that runs `inside` */
    uint64_t from_clock;
    uint64_t at;                /* pc of the pause */
    uint64_t device_clock;      /* of the latest access to a device, while memory is watched */
    uint64_t pages[2];          /* that it lies on */
    uc_hook hook;
    uint64_t filter[64];        /* pages with breakpoints, hashed */
    struct list breakpoints, waiting, hits, watches, watch_hooks;
};

struct counters {
    uint64_t slices, traps, sbi_calls, time_reads, counter_reads, counter_misses, halts, fills, faults, faults_dropped,
        flushes, removals, code_to_writable, writable_to_code, mixed_pages, hooked_pages, mmio_reads, mmio_writes,
        host_writes_to_code, pages_kept, translations, counter_hooks, pc_corrected, address_unknown;
};

struct hart;
struct upcalls {
    uint64_t (*mmio_read)(struct hart *, uint64_t address, unsigned size);
    void (*mmio_write)(struct hart *, uint64_t address, unsigned size, uint64_t value);
    void (*sbi)(struct hart *, uint64_t extension, uint64_t function, const uint64_t args[6], uint64_t result[2]);
    void *owner;
};

#define ERROR_MAX 256

struct hart {
    /* The clock. `pending` is the size of the block at `block`, whose retirement is not known yet. */
    uint64_t clock, pending, block, limit;
    uc_engine *uc;
    bool stopped;         /* by a hook at a block entry, ... */
    uint64_t stopped_at;  /* ... at this address */

    uint64_t epoch_time, epoch_time_max, epoch_clock, epoch_limit;
    uint64_t timer;
    bool external;        /* level of the external interrupt line */
    int lines;            /* timer and external line as last written to mip; -1: unknown */
    bool running, paused, stop_asked, failed, breakpoint, clock_hook;
    uint64_t barren_traps, barren_clock;
    char error[ERROR_MAX];

    uint8_t *ram;
    uint64_t ram_size, pages_count;
    struct page *pages;
    uint64_t tlb_age;          /* how often the core has flushed the TLB */
    bool satp_written;         /* flush it before the next block */
    struct list written;       /* pages with translations that the host wrote while the engine ran */
    struct list hooks;         /* write hooks of HOOKED pages */
    struct list counter_hooks, counter_sites, fresh_sites;
    bool retranslate;          /* the engine was stopped at the entry of a block that has to be translated anew */
    uint64_t fresh_page[2];    /* its pages */
    bool *no_checks;           /* in the engine: it translates without checks for an exit after memory accesses */
    struct { bool on; uint64_t pc, page; } checked;  /* this block is the next to be translated, and with checks */
    bool removing;             /* the fill hook answers the removal window */
    struct series series[SERIES_MAX];
    pthread_mutex_t snapshots_lock;
    struct fetch_entry *fetched;
    struct fault fault;
    uint64_t until;            /* the next slice ends here: an instruction that straddles a page; 0: nowhere */
    struct peek peek;

    uint64_t mmio_digest;
    size_t looks[LOOK_CSRS];   /* where further CSRs lie in a saved context */
    struct debug debug;
    struct upcalls up;
    struct counters count;
};

/* hart.c */
struct hart *hart_new(uint64_t ram_size, const struct upcalls *up, bool clock_hook, bool debug);
void hart_close(struct hart *);  /* the engine; RAM stays for those who still look at it */
void hart_free(struct hart *);
void hart_fail(struct hart *, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool list_push(struct list *, uint64_t item);
void list_clear(struct list *);
uint64_t reg_get(struct hart *, int id);
void reg_set(struct hart *, int id, uint64_t value);
uint64_t csr_get(struct hart *, int id);
void csr_set(struct hart *, int id, uint64_t value);

/* epoch.c */
int hart_run(struct hart *, uint64_t time, uint64_t time_max, uint64_t budget);
int hart_resume(struct hart *);
void hart_cut_epoch(struct hart *);
uint64_t hart_time(const struct hart *);
void hart_stop(struct hart *);
void hart_set_external(struct hart *, bool level);
void clock_settle(struct hart *, uint64_t pc);
void clock_retire(struct hart *);
void clock_kick(struct hart *);
void clock_set_timer(struct hart *, uint64_t ticks);
void clock_count_trap(struct hart *);
void clock_on_block(uc_engine *, uint64_t address, uint32_t size, void *hart);

/* look.c */
bool look_locate_registers(struct hart *);
uint64_t look_csr(const struct hart *, const char *name);
uint64_t look_fcsr(struct hart *, const struct view *);
uint64_t look_sstatus(const struct view *);

/* debug.c */
void debug_on_block(uc_engine *, uint64_t address, uint32_t size, void *hart);
bool debug_set_breakpoints(struct hart *, const uint64_t *addresses, size_t count, bool record);
void debug_confirm(struct hart *);
bool debug_after_slice(struct hart *, bool *boundary);
void debug_leave_pause(struct hart *);
void debug_forget(struct hart *);
bool debug_watch(struct hart *, uint64_t first, uint64_t length, unsigned access);
void debug_unwatch(struct hart *);
void debug_wrote(struct hart *, uint64_t address, uint64_t length);

/* walk.c */
enum { LEVELS_MAX = 5 };  /* Sv57 */

/* The pages of the page tables that a walk read. */
struct tables {
    unsigned count;
    uint64_t page[LEVELS_MAX];
};

struct translation {
    uint64_t physical;
    unsigned access;
    struct tables from;
};
int walk(struct hart *, const struct view *, uint64_t va, enum access, bool update, struct translation *);
bool in_ram(const struct hart *, uint64_t address);

/* pages.c */
void pages_flush_tlb(struct hart *);
void pages_drop_all(struct hart *);
void pages_forget_tlb(struct hart *);
void pages_drop_code(struct hart *, uint64_t index);
void pages_host_writes(struct hart *, uint64_t address, uint64_t length);
void pages_settle_writes(struct hart *);
void pages_lose_write(struct hart *);
void pages_clear_dirty(struct hart *);
void pages_touch_table(struct hart *, uint64_t index);
unsigned pages_derive(struct hart *, uint64_t index, enum access, unsigned allowed, const struct tables *from);
unsigned pages_claim(struct hart *, uint64_t index, enum access, unsigned allowed);
#define REMOVAL_WINDOW UINT64_C(0x5a5a000000000000)  /* no canonical address of any paging mode */

/* snapshot.c */
int series_open(struct hart *);
void series_close(struct hart *, int n);
bool snapshot_begin(struct hart *, int n, bool changed, bool exact);
void snapshot_end(struct hart *, int n);
void snapshot_take(struct hart *, int n, uint64_t ends, uint64_t max, struct batch *);
uint64_t snapshot_zeros_max(uint64_t max);
bool snapshot_look(struct hart *, int n, uint64_t index, uint8_t *content);
void snapshot_keep(struct hart *, uint64_t index);
void snapshot_keep_all(struct hart *);

static inline void snapshot_before_write(struct hart *h, uint64_t index)
{
    if (atomic_load_explicit(&h->pages[index].pending, memory_order_acquire))
        snapshot_keep(h, index);
}

/* fill.c */
bool fill_on_miss(uc_engine *, uint64_t va, uc_mem_type, uc_tlb_entry *, void *hart);
bool fill_fetch(struct hart *, uint64_t va, uint32_t *insn);
bool fill_short(struct hart *, uint64_t va, uint16_t *half);
bool fill_page_of(struct hart *, uint64_t va, uint64_t *index);
void fill_view(struct hart *, struct view *);
bool fill_locate_registers(struct hart *);

/* insn.c */
struct memory_access {
    unsigned base;  /* x register */
    int64_t offset;
    unsigned size;
    bool store;     /* stores and read-modify-writes */
};
bool insn_memory_access(uint32_t insn, struct memory_access *);
unsigned insn_size(uint32_t insn);
bool insn_reads_counter(uint32_t insn, unsigned *csr);
bool insn_touches_satp(uint32_t insn);
bool insn_is_refused(uint32_t insn);
bool insn_evades_fp(uint32_t insn);
bool insn_writes_fcsr(uint32_t insn);
uint64_t insn_straddler(struct hart *, uint64_t pc);
#define INSN_RD(insn) (((insn) >> 7) & 31)
#define INSN_RS1(insn) (((insn) >> 15) & 31)

/* checks.c */
bool checks_begin(struct hart *, uint32_t translation_buffer);
void checks_leave_out(struct hart *, bool leave_out);

/* counters.c */
bool counters_read_time(struct hart *, uint32_t insn, uint64_t pc);
void counters_on_translated(uc_engine *, uc_tb *now, uc_tb *before, void *hart);
void counters_hook_fresh(struct hart *);

/* trap.c */
void trap_enter(struct hart *, uint64_t cause, uint64_t tval, uint64_t epc);
void trap_deliver_fault(struct hart *);
void trap_on_exception(uc_engine *, uint32_t number, void *hart);
bool trap_on_breakpoint(uc_engine *, void *hart);

/* sbi.c */
enum { SBI_FUNCTIONS_MAX = 8 };
struct sbi_function {
    const char *name, *does;
};
void sbi_call(struct hart *);
/* The functions of the extension `index`, up to one without a name; NULL behind the last extension. */
const struct sbi_function *sbi_functions(unsigned index, uint64_t *id, const char **name);

/* mmio.c */
struct window {
    uint64_t base, size;
};
bool mmio_map(struct hart *);
/* The device window `index`; NULL behind the last. */
const struct window *mmio_window(unsigned index);
bool mmio_covers(uint64_t address);

/* state.c */
enum { STATE_WORDS = 96 };
uint64_t state_digest(struct hart *);
void state_collect(struct hart *, uint64_t words[STATE_WORDS]);
void state_look(struct hart *, uint64_t words[STATE_WORDS]);
const char *state_install(struct hart *, const uint64_t words[STATE_WORDS], bool keep_code);
void state_reset(struct hart *, uint64_t pc, uint64_t a0, uint64_t a1);
unsigned state_count(void);
const char *state_name(unsigned word);

/* The engine is about to stop in front of this instruction, which must not be emulated yet. */
static inline bool debug_pauses_at(const struct hart *h, uint64_t address)
{
    return h->debug.inside && h->debug.target == address;
}

/* Is this code of the block that runs up to the debugger's target, so with checks? */
static inline bool debug_runs(const struct hart *h, uint64_t address)
{
    return h->debug.inside && address - h->debug.from < h->debug.end - h->debug.from;
}

static inline uint64_t mix(uint64_t digest, uint64_t word)
{
    digest = (digest ^ word) * UINT64_C(0xff51afd7ed558ccd);
    return digest ^ (digest >> 32);
}

#endif
