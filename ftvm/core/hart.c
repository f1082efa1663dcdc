// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Birth and death of a hart: the engine with its hooks, RAM, and small helpers that every other file uses.
 *
 * RAM is /dev/zero mapped privately and lent to the engine, so that devices reach it without a copy, MADV_DONTNEED gives
 * zeros back, and it has a name in /proc. Pages that were only read take no memory (as those of a memfd would, and twice
 * once they are written: a digest or a snapshot reads all of them).
 */
#define _GNU_SOURCE
#include "hart.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRANSLATION_BUFFER (64u << 20)

uint64_t reg_get(struct hart *h, int id)
{
    uint64_t value = 0;
    uc_reg_read(h->uc, id, &value);
    return value;
}

void reg_set(struct hart *h, int id, uint64_t value)
{
    uc_reg_write(h->uc, id, &value);
}

/* The engine checks the guest's privilege even here, and says nothing when it refuses. Clears the LR reservation. */
uint64_t csr_get(struct hart *h, int id)
{
    uint64_t priv = reg_get(h, UC_RISCV_REG_PRIV);
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    uint64_t value = reg_get(h, id);
    reg_set(h, UC_RISCV_REG_PRIV, priv);
    return value;
}

void csr_set(struct hart *h, int id, uint64_t value)
{
    uint64_t priv = reg_get(h, UC_RISCV_REG_PRIV);
    reg_set(h, UC_RISCV_REG_PRIV, MACHINE);
    reg_set(h, id, value);
    reg_set(h, UC_RISCV_REG_PRIV, priv);
}

bool list_push(struct list *list, uint64_t item)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        uint64_t *items = realloc(list->items, room * sizeof *items);
        if (!items)
            return false;
        list->items = items;
        list->room = room;
    }
    list->items[list->count++] = item;
    return true;
}

void list_clear(struct list *list)
{
    free(list->items);
    *list = (struct list){0};
}

/* The guest is beyond help: its epoch ends at the next block entry, with these words. */
void hart_fail(struct hart *h, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(h->error, sizeof h->error, format, args);
    va_end(args);
    h->failed = true;
    clock_kick(h);
}

static bool map_ram(struct hart *h)
{
    int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    void *ram = mmap(NULL, h->ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    close(fd);
    if (ram == MAP_FAILED)
        return false;
    h->ram = ram;
    return uc_mem_map_ptr(h->uc, RAM_BASE, h->ram_size, UC_PROT_ALL, ram) == UC_ERR_OK;
}

static bool hook(struct hart *h, int type, void *callback)
{
    uc_hook unused;
    return uc_hook_add(h->uc, &unused, type, callback, h, 1, 0) == UC_ERR_OK;
}

static bool add_hooks(struct hart *h)
{
    return hook(h, UC_HOOK_TLB_FILL, fill_on_miss) && hook(h, UC_HOOK_INTR, trap_on_exception)
        && hook(h, UC_HOOK_INSN_INVALID, trap_on_breakpoint)
        && hook(h, UC_HOOK_EDGE_GENERATED, counters_on_translated)
        && (!h->clock_hook || hook(h, UC_HOOK_BLOCK, h->debug.on ? debug_on_block : clock_on_block));
}

/*
 * The engine tells of new blocks (UC_HOOK_EDGE_GENERATED) only when an earlier block has left it by its end. So let
 * one: fence.i ends a block, and the hart stops at the next one.
 */
static bool let_one_block_run(struct hart *h)
{
    static const uint32_t code[] = {0x0000100f /* fence.i */, 0x10500073 /* wfi */};
    memcpy(h->ram, code, sizeof code);
    reg_set(h, UC_RISCV_REG_PRIV, SUPERVISOR);
    h->limit = NEVER;
    bool ran = uc_emu_start(h->uc, RAM_BASE, 0, 0, 0) == UC_ERR_OK && h->count.translations == 1;
    memset(h->ram, 0, sizeof code);
    pages_drop_all(h);
    memset(h->pages, 0, h->pages_count * sizeof *h->pages);
    memset(&h->count, 0, sizeof h->count);
    h->clock = h->pending = 0;
    return ran;
}

static bool start_engine(struct hart *h)
{
    if (uc_open(UC_ARCH_RISCV, UC_MODE_RISCV64, &h->uc) != UC_ERR_OK)
        return false;
    return uc_ctl_set_tcg_buffer_size(h->uc, TRANSLATION_BUFFER) == UC_ERR_OK && map_ram(h) && mmio_map(h)
        && uc_ctl_exits_enable(h->uc) == UC_ERR_OK && checks_begin(h, TRANSLATION_BUFFER)
        && uc_ctl_tlb_mode(h->uc, UC_TLB_VIRTUAL) == UC_ERR_OK
        && fill_locate_registers(h) && look_locate_registers(h) && add_hooks(h) && let_one_block_run(h);
}

struct hart *hart_new(uint64_t ram_size, const struct upcalls *up, bool clock_hook, bool debug)
{
    struct hart *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->ram_size = ram_size;
    h->pages_count = ram_size >> PAGE_BITS;
    h->tlb_age = 1;
    pthread_mutex_init(&h->snapshots_lock, NULL);
    h->pages = calloc(h->pages_count, sizeof *h->pages);
    h->fetched = calloc(FETCH_ENTRIES, sizeof *h->fetched);
    h->clock_hook = clock_hook;
    h->debug.on = debug;
    h->debug.pause = NEVER;
    if (!h->pages || !h->fetched || !start_engine(h)) {
        hart_free(h);
        return NULL;
    }
    h->up = *up;
    state_reset(h, RAM_BASE, 0, 0);
    return h;
}

void hart_close(struct hart *h)
{
    if (h->peek.context)
        uc_context_free(h->peek.context);
    if (h->uc)
        uc_close(h->uc);
    h->peek.context = NULL;
    h->uc = NULL;
}

void hart_free(struct hart *h)
{
    hart_close(h);
    for (int n = 1; h->pages && n < SERIES_MAX; n++)
        series_close(h, n);
    pthread_mutex_destroy(&h->snapshots_lock);
    if (h->ram)
        munmap(h->ram, h->ram_size);
    list_clear(&h->written);
    list_clear(&h->hooks);
    list_clear(&h->counter_hooks);
    list_clear(&h->counter_sites);
    list_clear(&h->fresh_sites);
    list_clear(&h->debug.breakpoints);
    list_clear(&h->debug.waiting);
    list_clear(&h->debug.hits);
    list_clear(&h->debug.watches);
    list_clear(&h->debug.watch_hooks);
    free(h->fetched);
    free(h->pages);
    free(h);
}
