/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A job that found the ring full waits in `waiting`, in order; all others are known to what they have in flight.
 */
#include "job.h"
#include "arena.h"
#include "disk.h"
#include "loop.h"
#include "reply.h"
#include "ring.h"

#define PIECE (256U << 10)
#define KEEP_SIZE 1U                 /* modes of fallocate */
#define PUNCH_HOLE 2U
#define ZERO_RANGE 16U

static struct job jobs[JOBS], *free_jobs, *waiting, **waiting_end = &waiting;
static u32 in_flight;

void job_init(void)
{
    for (u32 i = JOBS; i-- > 0;) {
        jobs[i].next = free_jobs;
        free_jobs = &jobs[i];
    }
}

struct job *job_take(void)
{
    struct job *job = free_jobs;
    if (job) {
        free_jobs = job->next;
        *job = (struct job){0};
    }
    return job;
}

void job_release(struct job *job)
{
    if (job->buffer)
        arena_drop(job->buffer, job->buffer_bytes);
    job->next = free_jobs;
    free_jobs = job;
}

u32 job_in_flight(void) { return in_flight; }

static bool moves(const struct job *job) { return job->command == NBD_READ || job->command == NBD_WRITE; }

static bool has_range(const struct job *job)
{
    return moves(job) || job->command == NBD_TRIM || job->command == NBD_WRITE_ZEROES;
}

static bool modifies(const struct job *job) { return has_range(job) && job->command != NBD_READ; }

static bool whole_blocks(const struct job *job) { return ((job->offset | job->length) & (disk.block - 1)) == 0; }

enum nbd_error job_check(const struct job *job)
{
    u16 allowed = NBD_FLAG_FUA | (job->command == NBD_WRITE_ZEROES ? NBD_FLAG_NO_HOLE : 0);
    if ((!has_range(job) && job->command != NBD_FLUSH) || (job->flags & ~allowed))
        return NBD_EINVAL;
    if (!has_range(job))
        return NBD_OK;
    if (modifies(job) && disk.read_only)
        return NBD_EPERM;
    if (moves(job) && job->length > NBD_DATA_MAX)
        return NBD_EOVERFLOW;
    if (job->offset > disk.size || job->length > disk.size - job->offset)
        return job->command == NBD_WRITE || job->command == NBD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL;
    if (job->command != NBD_TRIM && (job->offset | job->length) % 512)
        return NBD_EINVAL;
    return job->command == NBD_WRITE_ZEROES && !whole_blocks(job) && job->length > NBD_DATA_MAX ? NBD_EINVAL : NBD_OK;
}

bool job_prepare(struct job *job)
{
    u64 from = disk_down(job->offset), to = disk_up(job->offset + job->length);
    u32 before = job->command == NBD_READ && job->length > REPLY_COPY_MAX ? PAGE : 0;      /* for the reply's header */
    if (job->length == 0 || !(moves(job) || (job->command == NBD_WRITE_ZEROES && !whole_blocks(job))))
        return true;
    job->buffer_bytes = before + (u32)(to - from);
    job->buffer = arena_take(job->buffer_bytes);
    if (!job->buffer)
        return false;
    job->data = job->buffer + before + (job->offset - from);
    if (job->command == NBD_WRITE_ZEROES)
        memset(job->data, 0, job->length);
    return true;
}

static enum nbd_error error_of(s32 error)
{
    switch (error) {
    case EPERM: case EACCES: case EROFS: return NBD_EPERM;
    case ENOMEM: return NBD_ENOMEM;
    case ENOSPC: return NBD_ENOSPC;
    case EINVAL: return NBD_EINVAL;
    case EOPNOTSUPP: return NBD_ENOTSUP;
    default: return NBD_EIO;
    }
}

static struct ring_entry *entry(struct job *job, u8 opcode)
{
    struct ring_entry *e = ring_next(opcode, (u64)job);
    if (e) {
        e->flags = RING_FIXED_FILE;
        job->pieces++;
        in_flight++;
    }
    return e;
}

static bool issue_piece(struct job *job)
{
    struct ring_entry *e = entry(job, job->command == NBD_READ ? RING_READ_FIXED : RING_WRITE_FIXED);
    if (!e)
        return false;
    e->offset = job->at;
    e->address = (u64)job->data - job->offset + job->at;
    e->length = (u32)min_u64(job->to - job->at, PIECE);
    if (job->command == NBD_WRITE && (job->flags & NBD_FLAG_FUA))
        e->operation_flags = RING_DSYNC;
    job->at += e->length;
    return true;
}

static bool issue_range(struct job *job)
{
    struct ring_entry *e = entry(job, RING_FALLOCATE);
    if (!e)
        return false;
    e->offset = job->from;
    e->address = job->to - job->from;
    e->length = job->mode;
    job->ranging = false;
    return true;
}

static bool issue_sync(struct job *job)
{
    struct ring_entry *e = entry(job, RING_FSYNC);
    if (!e)
        return false;
    e->operation_flags = RING_DATASYNC;
    job->syncing = false;
    return true;
}

/* Issues what can be issued now; false when the ring is full. An fdatasync comes after everything before it. */
static bool issue(struct job *job)
{
    while (!job->ranging && job->at < job->to && moves(job))
        if (!issue_piece(job))
            return false;
    if (job->ranging && !issue_range(job))
        return false;
    return !job->syncing || job->pieces || issue_sync(job);
}

static void go_on(struct job *job)
{
    if (!issue(job)) {
        job->next = 0;
        *waiting_end = job;
        waiting_end = &job->next;
    }
}

void job_issue(void)
{
    struct job *job = waiting;
    waiting = 0;
    waiting_end = &waiting;
    while (job) {
        struct job *next = job->next;
        go_on(job);
        job = next;
    }
}

/* Parts of blocks: alone, and at once. */
static void patch(struct job *job)
{
    while (in_flight)
        loop_wait();
    s32 error = disk_patch(job->data - (job->offset - disk_down(job->offset)), job->offset, job->length,
                           job->flags & NBD_FLAG_FUA);
    if (error)
        job->error = error_of(error);
    job_finish(job);
}

static void start_range(struct job *job)
{
    bool hole = job->command == NBD_TRIM || !(job->flags & NBD_FLAG_NO_HOLE);
    job->from = job->command == NBD_TRIM ? disk_up(job->offset) : job->offset;     /* a TRIM is a hint: narrow it */
    job->to = disk_down(job->offset + job->length);
    job->mode = KEEP_SIZE | (hole ? PUNCH_HOLE : ZERO_RANGE);
    job->ranging = job->from < job->to;
    job->syncing = job->flags & NBD_FLAG_FUA;
}

void job_start(struct job *job)
{
    if (job->command == NBD_FLUSH) {
        job->syncing = true;
    } else if (moves(job)) {
        job->from = job->at = disk_down(job->offset);
        job->to = job->length ? disk_up(job->offset + job->length) : job->from;
    } else if (job->command == NBD_TRIM || whole_blocks(job)) {
        start_range(job);
    }
    if (modifies(job) && job->command != NBD_TRIM && !whole_blocks(job))
        patch(job);
    else if (job->at == job->to && !job->ranging && !job->syncing)
        job_finish(job);
    else
        go_on(job);
}

static void fold(struct job *job, s32 result)
{
    if (result == -EAGAIN || result == -EINTR)
        job->again = true;
    else if (result == -EOPNOTSUPP && job->command == NBD_WRITE_ZEROES && job->mode == (KEEP_SIZE | PUNCH_HOLE)) {
        job->mode = KEEP_SIZE | ZERO_RANGE;
        job->ranging = true;
    } else if (result == -EOPNOTSUPP && job->command == NBD_TRIM)
        return;
    else if (result < 0)
        job->error = error_of(-result);
    else
        job->moved += (u64)result;
}

/* The kernel put a piece off: everything once more, which does no harm while nobody has been told that it is done. */
static void start_again(struct job *job)
{
    job->again = false;
    job->moved = 0;
    job->at = job->from;
    job->ranging = !moves(job) && job->from < job->to;
    job->syncing = job->command == NBD_FLUSH || (!moves(job) && (job->flags & NBD_FLAG_FUA));
    go_on(job);
}

void job_result(struct job *job, s32 result)
{
    job->pieces--;
    in_flight--;
    fold(job, result);
    if (job->pieces || (moves(job) && job->at < job->to))      /* others are in flight, or wait for room in the ring */
        return;
    if (job->error)
        job_finish(job);
    else if (job->again)
        start_again(job);
    else if (job->ranging || job->syncing)
        go_on(job);
    else {
        if (moves(job) && job->moved != job->to - job->from)
            job->error = NBD_EIO;
        job_finish(job);
    }
}

void job_finish(struct job *job)
{
    if (job->fate != NO_REPLY)
        reply(job);
    job_release(job);
}
