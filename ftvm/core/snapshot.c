// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Snapshots: RAM as it was between two epochs, read while the guest runs on.
 *
 * The TLB fill hook sees the first write to a page since the TLB lost its W for it, and all other writes say so before
 * they are made. So a snapshot costs the guest nothing but a flush at its beginning, and a copy of a page at the first
 * write to it; nobody forks, and the guest stands still for a fraction of a millisecond, however large its RAM is.
 *
 *   a page of a snapshot     pending (in page.pending)  --taken--> gone
 *                               |  first write, exact snapshot
 *                               +--> kept (a copy)      --taken--> gone
 *                               |  first write, loose snapshot
 *                               +--> dropped: it is dirty, so it belongs to the series' next snapshot
 *
 * A series is a row of snapshots of which each holds all pages, or those written since the one before; bit N of
 * page.dirty and of page.pending belongs to series N. Series 0 has no snapshots: it is the page digest's (and hart.dirty).
 * Copies lie in a mapping of RAM's size, each at its page's place, and are given back one by one as they are taken.
 *
 * Taking may happen in any thread while the guest runs. The lock is held for one page at a time: a writer that finds
 * `pending` zero need not take it, since the taker clears a bit only after it has copied the page.
 */
#define _GNU_SOURCE
#include "hart.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ZEROS_PER_PAGE 16  /* zero pages told in one batch, for each page with content */

static const uint8_t zero_page[PAGE_BYTES];

static uint8_t *kept_page(const struct series *s, uint64_t index)
{
    return s->kept + (index << PAGE_BITS);
}

static bool is_kept(const struct series *s, uint64_t index)
{
    return s->kept_bits && s->kept_bits[index >> 6] >> (index & 63) & 1;
}

static void set_kept(struct series *s, uint64_t index, bool kept)
{
    uint64_t bit = UINT64_C(1) << (index & 63);
    if (kept)
        s->kept_bits[index >> 6] |= bit;
    else
        s->kept_bits[index >> 6] &= ~bit;
    s->copies += kept ? 1 : (uint64_t)-1;
}

static void clear_pending(struct page *page, uint8_t bits)
{
    atomic_fetch_and_explicit(&page->pending, (uint8_t)~bits, memory_order_release);
}

/* Somebody is about to write this page, of which some snapshot has no copy yet. */
void snapshot_keep(struct hart *h, uint64_t index)
{
    struct page *page = &h->pages[index];
    const uint8_t *content = h->ram + (index << PAGE_BITS);
    pthread_mutex_lock(&h->snapshots_lock);
    uint8_t pending = atomic_load_explicit(&page->pending, memory_order_relaxed);
    for (unsigned n = 1; n < SERIES_MAX; n++) {
        struct series *s = &h->series[n];
        if (!(pending >> n & 1))
            continue;
        if (!s->exact) {
            s->left--;
            continue;
        }
        if (memcmp(content, zero_page, PAGE_BYTES))  /* the place of a copy is zero already */
            memcpy(kept_page(s, index), content, PAGE_BYTES);
        set_kept(s, index, true);
        h->count.pages_kept++;
    }
    clear_pending(page, pending);
    pthread_mutex_unlock(&h->snapshots_lock);
}

/* All of RAM is about to be written. */
void snapshot_keep_all(struct hart *h)
{
    for (uint64_t i = 0; i < h->pages_count; i++)
        snapshot_before_write(h, i);
}

int series_open(struct hart *h)
{
    for (int n = 1; n < SERIES_MAX; n++)
        if (!h->series[n].open) {
            h->series[n] = (struct series){.open = true, .ends = h->series[n].ends};
            return n;
        }
    return -1;
}

void series_close(struct hart *h, int n)
{
    snapshot_end(h, n);
    h->series[n].open = false;
}

static bool make_room(struct hart *h, struct series *s)
{
    void *kept = mmap(NULL, h->ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (kept == MAP_FAILED)
        return false;
    s->kept_bits = calloc((h->pages_count + 63) / 64, sizeof *s->kept_bits);
    if (!s->kept_bits) {
        munmap(kept, h->ram_size);
        return false;
    }
    s->kept = kept;
    return true;
}

/*
 * Between two epochs: begin a snapshot of all pages, or of those that were written since the one before of this series.
 * False without memory. What the TLB holds never shows, so the replica of this hart need not do the same.
 */
bool snapshot_begin(struct hart *h, int n, bool changed, bool exact)
{
    struct series *s = &h->series[n];
    uint8_t bit = (uint8_t)(1 << n);
    snapshot_end(h, n);
    if (exact && !make_room(h, s))
        return false;
    pthread_mutex_lock(&h->snapshots_lock);
    s->exact = exact;
    for (uint64_t i = 0; i < h->pages_count; i++) {
        struct page *page = &h->pages[i];
        if (!changed || !s->begun || page->dirty & bit) {
            atomic_fetch_or_explicit(&page->pending, bit, memory_order_relaxed);
            s->left++;
        }
        page->dirty &= (uint8_t)~bit;
    }
    s->begun = true;
    pthread_mutex_unlock(&h->snapshots_lock);
    pages_lose_write(h);
    return true;
}

/* The rest is not wanted. */
void snapshot_end(struct hart *h, int n)
{
    struct series *s = &h->series[n];
    pthread_mutex_lock(&h->snapshots_lock);
    if (s->left)
        for (uint64_t i = 0; i < h->pages_count; i++)
            clear_pending(&h->pages[i], (uint8_t)(1 << n));
    if (s->kept)
        munmap(s->kept, h->ram_size);
    free(s->kept_bits);
    *s = (struct series){.open = s->open, .begun = s->begun, .ends = s->ends + 1};
    pthread_mutex_unlock(&h->snapshots_lock);
}

/* Where the page's content of then is now, NULL when it is not to be had. With the lock. */
static const uint8_t *content_of(const struct hart *h, int n, uint64_t index)
{
    const struct series *s = &h->series[n];
    if (is_kept(s, index))
        return kept_page(s, index);
    uint8_t pending = atomic_load_explicit(&h->pages[index].pending, memory_order_relaxed);
    return pending >> n & 1 ? h->ram + (index << PAGE_BITS) : NULL;
}

static void give_back(const struct hart *h, const struct series *s, uint64_t word)
{
    uint64_t first = word * 64, count = h->pages_count - first < 64 ? h->pages_count - first : 64;
    madvise(kept_page(s, first), count << PAGE_BITS, MADV_DONTNEED);
}

static void let_go(struct hart *h, int n, uint64_t index)
{
    struct series *s = &h->series[n];
    s->left--;
    if (!is_kept(s, index)) {
        clear_pending(&h->pages[index], (uint8_t)(1 << n));
        return;
    }
    set_kept(s, index, false);
    if (!s->kept_bits[index / 64])  /* many at once: each call interrupts the processor that the guest runs on */
        give_back(h, s, index / 64);
}

/* The next page to take, copies first: they are what costs memory. pages_count: there is none. */
static uint64_t next_page(const struct hart *h, struct series *s, int n)
{
    uint64_t words = (h->pages_count + 63) / 64;
    for (uint64_t i = 0; s->copies && i < words; i++) {
        uint64_t word = (s->kept_from + i) % words;
        if (s->kept_bits[word]) {
            s->kept_from = word;
            return word * 64 + (uint64_t)__builtin_ctzll(s->kept_bits[word]);
        }
    }
    while (s->next < h->pages_count
           && !(atomic_load_explicit(&h->pages[s->next].pending, memory_order_relaxed) >> n & 1))
        s->next++;
    return s->next;
}

/* One page into the batch; false at the end of the snapshot. */
static bool take_one(struct hart *h, int n, struct batch *batch)
{
    struct series *s = &h->series[n];
    uint64_t index = s->left ? next_page(h, s, n) : h->pages_count;
    if (index == h->pages_count)
        return false;
    const uint8_t *content = content_of(h, n, index);
    if (memcmp(content, zero_page, PAGE_BYTES)) {
        memcpy(batch->content + batch->count * PAGE_BYTES, content, PAGE_BYTES);
        batch->numbers[batch->count++] = (uint32_t)index;
    } else {
        batch->zeros[batch->zeros_count++] = (uint32_t)index;
    }
    let_go(h, n, index);
    return true;
}

/*
 * Up to `max` pages that hold something, and the zero pages met on the way; nothing at all: everything was taken, or the
 * snapshot is over (`ends` is as it was when the caller last held the interpreter lock).
 */
void snapshot_take(struct hart *h, int n, uint64_t ends, uint64_t max, struct batch *batch)
{
    bool more = true;
    while (more && batch->count < max && batch->zeros_count < max * ZEROS_PER_PAGE) {
        pthread_mutex_lock(&h->snapshots_lock);
        more = h->series[n].ends == ends && take_one(h, n, batch);
        pthread_mutex_unlock(&h->snapshots_lock);
    }
}

uint64_t snapshot_zeros_max(uint64_t max)
{
    return max * ZEROS_PER_PAGE;
}

/* A page as it was, without taking it; false when it is not in the snapshot, or was taken. */
bool snapshot_look(struct hart *h, int n, uint64_t index, uint8_t *content)
{
    pthread_mutex_lock(&h->snapshots_lock);
    const uint8_t *found = content_of(h, n, index);
    if (found)
        memcpy(content, found, PAGE_BYTES);
    pthread_mutex_unlock(&h->snapshots_lock);
    return found != NULL;
}
