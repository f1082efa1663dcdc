/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Three lists: free jobs, jobs with something left to issue (`listed`), jobs that are done. A job whose pieces are all in
 * flight is in none of them: its pieces know it.
 */
#include "job.h"
#include "crash.h"
#include "memory.h"
#include "trap.h"

#define JOBS 256
#define PIECES 256
#define PIECES_PER_JOB 8             /* so that one huge TRIM does not shut the others out */

struct blk disk;

struct list {
    struct job *first, *last;
};

static struct list issuing, done;
static struct job *free_jobs;
static struct piece *free_pieces;
static struct chunk *zeroes;         /* what a disk without WRITE_ZEROES is given */

static void append(struct list *list, struct job *job)
{
    job->listed = list == &issuing;
    job->next = 0;
    if (list->first)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

static struct job *shift(struct list *list)
{
    struct job *job = list->first;
    if (job)
        list->first = job->next;
    return job;
}

void job_init(void)
{
    struct job *jobs = memory_take(sizeof *jobs * JOBS, 8);
    struct piece *pieces = memory_take(sizeof *pieces * PIECES, 8);
    for (u32 i = JOBS; i-- > 0;)
        job_release(&jobs[i]);
    for (u32 i = PIECES; i-- > 0;)
        piece_release(&pieces[i]);
    blk_open(&disk);
}

struct job *job_take(void)
{
    struct job *job = free_jobs;
    if (job) {
        free_jobs = job->next;
        memset(job, 0, sizeof *job);
    }
    return job;
}

static void drop_chunks(struct job *job)
{
    while (job->chunks) {
        struct chunk *c = job->chunks;
        job->chunks = c->next;
        chunk_drop(c);
    }
}

void job_release(struct job *job)
{
    drop_chunks(job);
    job->next = free_jobs;
    free_jobs = job;
}

static bool has_range(const struct job *job)
{
    return job->command == NBD_READ || job->command == NBD_WRITE || job->command == NBD_TRIM ||
           job->command == NBD_WRITE_ZEROES;
}

static bool modifies(const struct job *job) { return has_range(job) && job->command != NBD_READ; }

/* A TRIM is a hint, so it may be narrowed to whole sectors. */
static void narrow(struct job *job)
{
    u64 start = (job->offset + SECTOR - 1) & ~(u64)(SECTOR - 1);
    u64 end = (job->offset + job->length) & ~(u64)(SECTOR - 1);
    job->offset = start;
    job->length = end > start ? (u32)(end - start) : 0;
}

enum nbd_error job_check(struct job *job)
{
    u64 size = disk.sectors * SECTOR;
    u16 allowed = NBD_FLAG_FUA | (job->command == NBD_WRITE_ZEROES ? NBD_FLAG_NO_HOLE : 0);
    if ((!has_range(job) && job->command != NBD_FLUSH) || (job->flags & ~allowed))
        return NBD_EINVAL;
    if (!has_range(job))
        return NBD_OK;
    if (modifies(job) && disk.read_only)
        return NBD_EPERM;
    if ((job->command == NBD_READ || job->command == NBD_WRITE) && job->length > NBD_DATA_MAX)
        return NBD_EOVERFLOW;
    if (job->offset > size || job->length > size - job->offset)
        return job->command == NBD_WRITE || job->command == NBD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL;
    if (job->command == NBD_TRIM)
        narrow(job);
    return (job->offset | job->length) % SECTOR ? NBD_EINVAL : NBD_OK;
}

static bool reserve_chunks(struct job *job)
{
    u32 count = (job->length + chunk_size - 1) / chunk_size;
    struct chunk **end = &job->chunks;
    if (chunk_free_count() < count)
        return false;
    while (count--) {
        *end = chunk_take();
        end = &(*end)->next;
    }
    job->reading = job->chunks;
    return true;
}

bool job_start(struct job *job)
{
    if (job->command == NBD_READ && !reserve_chunks(job))
        return false;
    if (job->command == NBD_TRIM && !disk.discard_max)
        job->cursor = job->length;
    if (job->command == NBD_WRITE_ZEROES && !disk.zeroes_max && !zeroes) {
        zeroes = chunk_take();
        if (!zeroes)
            return false;
        memset(zeroes->data, 0, chunk_size);
    }
    job->flush_due = disk.flush && (job->command == NBD_FLUSH || (modifies(job) && (job->flags & NBD_FLAG_FUA)));
    append(&issuing, job);
    return true;
}

void job_end(struct job *job)
{
    if (job->pieces || job->receiving)
        return;
    if (job->error)
        job->flush_due = false;
    if (job->flush_due)
        append(&issuing, job);
    else
        append(&done, job);
}

struct job *job_done(void) { return done.first; }
void job_shift(void) { job_release(shift(&done)); }

struct piece *piece_take(struct job *job, enum blk_kind kind)
{
    struct piece *p = free_pieces;
    if (!p)
        return 0;
    free_pieces = p->next;
    p->job = job;
    p->bytes = 0;
    p->bounce = 0;
    p->bounced = 0;
    p->request.header.kind = kind;
    p->request.header.reserved = 0;
    p->request.header.sector = (job->offset + job->cursor) / SECTOR;
    p->request.segments = 0;
    return p;
}

void piece_release(struct piece *p)
{
    if (p->request.header.kind == BLK_WRITE)
        for (u32 i = 0; i < p->request.segments; i++)
            if (p->held[i])
                chunk_drop(p->held[i]);
    if (p->bounce)
        chunk_drop(p->bounce);
    p->next = free_pieces;
    free_pieces = p;
}

void piece_submit(struct piece *p)
{
    p->job->pieces++;
    blk_submit(&p->request);
}

static void fill_read(struct piece *p, u32 left)
{
    struct job *job = p->job;
    for (; left && p->request.segments < disk.segments_max; job->reading = job->reading->next) {
        u32 n = (u32)min_u64(left, chunk_size);
        p->request.segment[p->request.segments++] = (struct segment){job->reading->data, n};
        p->bytes += n;
        left -= n;
    }
}

static void fill_range(struct piece *p, u32 left, u32 sectors_max)
{
    p->bytes = (u32)min_u64(left, (u64)sectors_max * SECTOR);
    p->request.range.sector = p->request.header.sector;
    p->request.range.sectors = p->bytes / SECTOR;
    p->request.range.flags =
        p->job->command == NBD_WRITE_ZEROES && !(p->job->flags & NBD_FLAG_NO_HOLE) ? BLK_UNMAP : 0;
    p->request.header.sector = 0;                          /* reserved for these kinds */
}

static void fill_zeroes(struct piece *p, u32 left)
{
    while (left && p->request.segments < disk.segments_max) {
        u32 n = (u32)min_u64(left, chunk_size);
        p->held[p->request.segments] = 0;
        p->request.segment[p->request.segments++] = (struct segment){zeroes->data, n};
        p->bytes += n;
        left -= n;
    }
}

static enum blk_kind kind_of(const struct job *job)
{
    switch (job->command) {
    case NBD_READ: return BLK_READ;
    case NBD_TRIM: return BLK_DISCARD;
    case NBD_WRITE_ZEROES: return disk.zeroes_max ? BLK_WRITE_ZEROES : BLK_WRITE;
    default: return BLK_FLUSH;
    }
}

/* One more piece; false when there is none to be had now. */
static bool issue_piece(struct job *job)
{
    u32 left = job->length - job->cursor;
    bool flush = left == 0 || job->command == NBD_FLUSH || job->command == NBD_WRITE;
    enum blk_kind kind = flush ? BLK_FLUSH : kind_of(job);
    struct piece *p = job->pieces < PIECES_PER_JOB ? piece_take(job, kind) : 0;
    if (!p)
        return false;
    if (kind == BLK_READ)
        fill_read(p, left);
    else if (kind == BLK_DISCARD)
        fill_range(p, left, disk.discard_max);
    else if (kind == BLK_WRITE_ZEROES)
        fill_range(p, left, disk.zeroes_max);
    else if (kind == BLK_WRITE)
        fill_zeroes(p, left);
    else
        p->request.header.sector = 0;
    if (flush)
        job->flush_due = false;
    job->cursor += p->bytes;
    piece_submit(p);
    return true;
}

/* More to issue now? A flush has to wait for the pieces before it. */
static bool ready(const struct job *job)
{
    if (job->error)
        return false;
    return (has_range(job) && job->command != NBD_WRITE && job->cursor < job->length) ||
           (job->flush_due && job->pieces == 0);
}

static bool exhausted(const struct job *job)
{
    return job->error || job->command == NBD_FLUSH || job->command == NBD_WRITE || job->cursor >= job->length;
}

bool job_waiting(void) { return issuing.first; }

void job_issue(void)
{
    struct list now = issuing;
    issuing.first = 0;
    struct job *job;
    while ((job = shift(&now))) {
        bool issued = true;
        job->listed = false;
        while (ready(job) && (issued = issue_piece(job))) {
        }
        if (!exhausted(job) || (!issued && job->pieces == 0))
            append(&issuing, job);                         /* no piece was left, or too many of its own */
        else
            job_end(job);
    }
}

bool job_reap(void)
{
    struct blk_request *request;
    bool did = false;
    while ((request = blk_completed())) {
        struct piece *p = (struct piece *)request;
        struct job *job = p->job;
        did = true;
        job->pieces--;
        if (request->status != BLK_OK)
            job->error = NBD_EIO;
        else if (request->header.kind == BLK_READ)
            crash_if_poisoned(p);
        piece_release(p);
        if (!job->listed)
            job_end(job);
    }
    return did;
}
