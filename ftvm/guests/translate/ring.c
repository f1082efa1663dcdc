/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The two queues lie in memory shared with the kernel: heads and tails are read with acquire and written with release
 * order. Whether the queue is full is told by what was handed out and not yet submitted: the kernel takes every entry in
 * the call that submits it.
 */
#include "ring.h"
#include "linux.h"

#define SETUP_SUBMIT_ALL (1U << 7)
#define SETUP_COOP_TASKRUN (1U << 8)
#define SETUP_SINGLE_ISSUER (1U << 12)
#define SETUP_DEFER_TASKRUN (1U << 13)
#define ENTER_GETEVENTS 1
#define REGISTER_BUFFERS 0
#define REGISTER_FILES 2
#define OFFSET_SUBMISSIONS 0
#define OFFSET_ENTRIES 0x10000000UL

/* linux/io_uring.h: io_sqring_offsets, io_cqring_offsets, io_uring_params */
struct submission_offsets {
    u32 head, tail, mask, entries, flags, dropped, array, reserved;
    u64 address;
};

struct completion_offsets {
    u32 head, tail, mask, entries, overflow, results, flags, reserved;
    u64 address;
};

struct parameters {
    u32 submissions, completions, flags, cpu, idle, features, workers, reserved[3];
    struct submission_offsets submission;
    struct completion_offsets completion;
};

static struct {
    s64 fd;
    struct ring_entry *entries;
    u32 *tail, mask;
    u32 next, submitted;             /* of the entries: handed out, and given to the kernel */
    u32 *result_head, *result_tail, result_mask;
    struct ring_result *results;
} ring;

static u8 *map(u64 length, u64 offset)
{
    s64 address = linux_call(SYS_MMAP, 0, length, 3, 0x8001, (u64)ring.fd, offset);        /* shared, populated */
    if (address < 0)
        fail("io_uring cannot be mapped: error %d", (int)-address);
    return (u8 *)address;
}

static void setup(struct parameters *p)
{
    static const u32 choices[] = {SETUP_SUBMIT_ALL | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN,
                                  SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN, 0};       /* Linux 6.1, 5.19, and before */
    for (u32 i = 0; i < sizeof choices / sizeof *choices; i++) {
        memset(p, 0, sizeof *p);
        p->flags = choices[i];
        ring.fd = CALL3(SYS_URING_SETUP, RING_ENTRIES, p, 0);
        if (ring.fd != -EINVAL)
            break;
    }
    if (ring.fd < 0)
        fail("io_uring: error %d: this kernel has none, or forbids it (kernel.io_uring_disabled)", (int)-ring.fd);
}

static void give(u32 what, const void *items, u32 count, const char *name)
{
    s64 done = CALL4(SYS_URING_REGISTER, ring.fd, what, items, count);
    if (done < 0)
        fail("io_uring does not take the %s: error %d", name, (int)-done);
}

void ring_open(const s32 *files, u32 file_count, void *buffer, u64 length)
{
    struct parameters p;
    setup(&p);
    u64 submission_bytes = p.submission.array + sizeof(u32) * p.submissions;
    u64 completion_bytes = p.completion.results + sizeof(struct ring_result) * p.completions;
    u8 *shared = map(submission_bytes > completion_bytes ? submission_bytes : completion_bytes, OFFSET_SUBMISSIONS);
    ring.entries = (struct ring_entry *)map(sizeof(struct ring_entry) * p.submissions, OFFSET_ENTRIES);
    ring.tail = (u32 *)(shared + p.submission.tail);
    ring.mask = *(u32 *)(shared + p.submission.mask);
    u32 *array = (u32 *)(shared + p.submission.array);
    for (u32 i = 0; i <= ring.mask; i++)
        array[i] = i;
    ring.result_head = (u32 *)(shared + p.completion.head);
    ring.result_tail = (u32 *)(shared + p.completion.tail);
    ring.result_mask = *(u32 *)(shared + p.completion.mask);
    ring.results = (struct ring_result *)(shared + p.completion.results);
    struct iovec all = {buffer, length};
    give(REGISTER_BUFFERS, &all, 1, "buffers");
    give(REGISTER_FILES, files, file_count, "files");
}

u32 ring_room(void) { return RING_ENTRIES - (ring.next - ring.submitted); }

struct ring_entry *ring_next(u8 opcode, u64 token)
{
    if (!ring_room())
        return 0;
    struct ring_entry *e = &ring.entries[ring.next++ & ring.mask];
    *e = (struct ring_entry){.opcode = opcode, .token = token};
    return e;
}

void ring_enter(bool wait)
{
    u32 count = ring.next - ring.submitted;
    __atomic_store_n(ring.tail, ring.next, __ATOMIC_RELEASE);
    s64 done = linux_call(SYS_URING_ENTER, (u64)ring.fd, count, wait, ENTER_GETEVENTS, 0, 0);
    if (done >= 0)
        ring.submitted += (u32)done;
    else if (done != -EINTR && done != -EAGAIN)
        fail("io_uring: error %d", (int)-done);
}

const struct ring_result *ring_result(void)
{
    u32 head = *ring.result_head;
    return head == __atomic_load_n(ring.result_tail, __ATOMIC_ACQUIRE) ? 0 : &ring.results[head & ring.result_mask];
}

void ring_taken(void) { __atomic_store_n(ring.result_head, *ring.result_head + 1, __ATOMIC_RELEASE); }
