/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   staged      headers, and whatever else came with them
 *   writing     a WRITE's data: what is not staged is received straight into its buffer
 *   skipping    a WRITE's data that nobody wants, because the WRITE has already failed
 *
 * It stops at the first request for which there is no job or no buffer; the port's flow control does the rest.
 */
#include "receive.h"
#include "crash.h"
#include "job.h"
#include "port.h"

#define STAGE 8192

static struct {
    u8 bytes[STAGE];
    u32 from, to;                    /* staged */
    struct job *writing;
    u32 left, skipping;              /* bytes of data to come */
    bool ready;                      /* the port may have more */
    bool crash_wanted;
} in;

void receive_init(bool crash_wanted) { in.crash_wanted = crash_wanted; }
void receive_more(void) { in.ready = true; }

static void decode(struct job *job, const u8 *header)
{
    if (get_be32(header) != NBD_REQUEST_MAGIC)
        fail("%u instead of an NBD request's magic", get_be32(header));
    job->flags = (u16)get_be16(header + 4);
    job->command = (u16)get_be16(header + 6);
    copy(&job->cookie, header + 8, sizeof job->cookie);
    job->offset = get_be64(header + 16);
    job->length = get_be32(header + 24);
}

/* A decoded request; false when it has to wait. */
static bool begin(struct job *job)
{
    if (in.crash_wanted && job->command == NBD_CRASH && crash(job->offset & 0xff, job)) {
        job_finish(job);
        return true;
    }
    job->error = job_check(job);
    if (job->error) {
        in.skipping = job->command == NBD_WRITE ? job->length : 0;
        job_finish(job);
        return true;
    }
    if (!job_prepare(job))
        return false;
    if (job->command == NBD_WRITE && job->length) {
        in.writing = job;
        in.left = job->length;
    } else {
        job_start(job);
    }
    return true;
}

static bool begin_request(void)
{
    struct job *job = job_take();
    if (!job)
        return false;
    decode(job, in.bytes + in.from);
    if (job->command == NBD_DISCONNECT) {
        job_release(job);
    } else if (!begin(job)) {
        job_release(job);
        return false;
    }
    in.from += NBD_REQUEST_BYTES;
    return true;
}

static void got_data(u32 n)
{
    in.left -= n;
    if (in.left == 0) {
        struct job *job = in.writing;
        in.writing = 0;
        job_start(job);
    }
}

static u8 *data_end(void) { return in.writing->data + in.writing->length - in.left; }

static void take_staged(void)
{
    u32 n = (u32)min_u64(in.to - in.from, in.writing ? in.left : in.skipping);
    if (in.writing)
        copy(data_end(), in.bytes + in.from, n);
    in.from += n;
    if (in.writing)
        got_data(n);
    else
        in.skipping -= n;
}

/* Everything that is staged, but for a last part of a header; false when it has to wait. */
static bool digest(void)
{
    for (;;) {
        if (in.from < in.to && (in.writing || in.skipping))
            take_staged();
        else if (in.to - in.from < NBD_REQUEST_BYTES)
            return true;
        else if (!begin_request())
            return false;
    }
}

static u32 more(void)
{
    struct iovec into[2];
    u32 count = 0, direct = in.writing ? in.left : 0;
    memmove(in.bytes, in.bytes + in.from, in.to - in.from);
    in.to -= in.from;
    in.from = 0;
    if (direct)
        into[count++] = (struct iovec){data_end(), direct};
    into[count++] = (struct iovec){in.bytes + in.to, STAGE - in.to};
    u32 n = port_receive(into, count), staged = n > direct ? n - direct : 0;
    in.to += staged;
    if (n && direct)
        got_data(n - staged);
    in.ready = n;
    return n;
}

void receive(void)
{
    while (digest() && in.ready && more()) {
    }
}
