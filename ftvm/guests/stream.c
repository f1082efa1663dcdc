/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   header    28 bytes are gathered, then the request is started or, when something is short, stays as it is
 *   data      a WRITE's bytes go to write.c, or nowhere when the WRITE has already failed
 *
 * The stream stops at the first request that cannot be started yet: the port's flow control does the rest. Receive
 * buffers are a bounded share of all chunks, so that a READ that waits for chunks always gets them in the end.
 */
#include "stream.h"
#include "crash.h"
#include "trap.h"
#include "virtio_port.h"
#include "write.h"

#define POSTED_MAX 128

static struct {
    struct chunk *chunk;             /* the receive buffer being read, and what is left of it */
    u8 *at;
    u32 left;
    _Alignas(8) u8 header[NBD_REQUEST_BYTES];              /* aligned, so that copying it is quick */
    u32 gathered;
    struct job *writing;             /* the WRITE whose data comes next */
    u32 data_left;
    u32 posted, posted_max;
    u32 generation;
    bool stalled;
} in;

void stream_init(void) { in.posted_max = (u32)min_u64(POSTED_MAX, chunk_total() / 4); }
bool stream_stalled(void) { return in.stalled; }
u32 stream_generation(void) { return in.generation; }

bool stream_hungry(void) { return in.posted < min_u64(in.posted_max, port_buffers()); }

void stream_post(void)
{
    struct chunk *c;
    for (; stream_hungry() && (c = chunk_take()); in.posted++)
        port_post(c->data - CHUNK_HEAD, chunk_size + CHUNK_HEAD, c);
}

static bool next_buffer(void)
{
    if (in.chunk)
        chunk_drop(in.chunk);
    in.chunk = port_receive(&in.left);
    if (!in.chunk)
        return false;
    in.posted--;
    in.at = in.chunk->data - CHUNK_HEAD;
    if (in.left > chunk_size + CHUNK_HEAD)
        panic("port: the device wrote %u bytes into a buffer of %u", in.left, chunk_size + CHUNK_HEAD);
    return true;
}

static void skip(u32 n)
{
    in.at += n;
    in.left -= n;
}

static bool gather_header(void)
{
    u32 n = (u32)min_u64(in.left, NBD_REQUEST_BYTES - in.gathered);
    memcpy(in.header + in.gathered, in.at, n);
    in.gathered += n;
    skip(n);
    return in.gathered == NBD_REQUEST_BYTES;
}

static void decode(struct job *job)
{
    if (get_be32(in.header) != NBD_REQUEST_MAGIC)
        panic("port: %x instead of an NBD request's magic", get_be32(in.header));
    job->flags = (u16)get_be16(in.header + 4);
    job->command = (u16)get_be16(in.header + 6);
    job->cookie = get_be64(in.header + 8);
    job->offset = get_be64(in.header + 16);
    job->length = get_be32(in.header + 24);
    job->generation = in.generation;
}

static bool start(struct job *job)
{
    if (job->command == NBD_WRITE) {
        in.data_left = job->length;
        in.writing = job->length ? job : 0;
        job->receiving = in.writing;
        if (!job->error)
            job->flush_due = disk.flush && (job->flags & NBD_FLAG_FUA);
    } else if (!job->error) {
        return job_start(job);
    }
    job_end(job);
    return true;
}

/* The gathered header's request; false when it has to wait. */
static bool begin_request(void)
{
    struct job *job = job_take();
    if (!job)
        return false;
    decode(job);
    bool told_to_crash = job->command == NBD_CRASH && crash_wanted() && crash(job->offset & 0xff, job);
    if (job->command == NBD_DISCONNECT) {
        job_release(job);
    } else {
        job->error = told_to_crash ? NBD_OK : job_check(job);
        if (told_to_crash) {
            job_end(job);
        } else if (!start(job)) {
            job_release(job);
            return false;
        }
    }
    in.gathered = 0;
    return true;
}

static bool take_data(void)
{
    struct job *job = in.writing;
    u32 n = (u32)min_u64(in.left, in.data_left);
    if (job->error || job->fate != REPLY)
        write_abandon();
    else
        n = write_data(job, in.chunk, in.at, n, in.data_left);
    if (n == 0)
        return false;
    skip(n);
    in.data_left -= n;
    if (in.data_left == 0) {
        in.writing = 0;
        job->receiving = false;
        job_end(job);
    }
    return true;
}

void stream_serve(void)
{
    in.stalled = false;
    for (;;) {
        if (in.gathered == NBD_REQUEST_BYTES) {
            if (!begin_request())
                break;
        } else if (in.left == 0) {
            if (!next_buffer())
                return;
        } else if (in.writing) {
            if (!take_data())
                break;
        } else {
            gather_header();
        }
    }
    in.stalled = true;
}

void stream_reset(void)
{
    in.left = 0;
    while (next_buffer())
        in.left = 0;
    in.gathered = 0;
    in.generation++;
    write_abandon();
    if (in.writing) {
        in.writing->receiving = false;
        in.writing->error = NBD_EIO;
        job_end(in.writing);
        in.writing = 0;
    }
}
