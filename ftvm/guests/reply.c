/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A batch is one chain on the transmit queue: headers in a small area of its own, or in front of the data in a READ's
 * first chunk. Replies may straddle batches, since the port is a stream.
 */
#include "reply.h"
#include "memory.h"
#include "virtio_port.h"

#define BATCHES 32
#define BATCH_BYTES (256U << 10)     /* a batch that holds so much is sent: devices bound what one chain may carry */

struct batch {
    struct batch *next;
    struct chunk *chunks;            /* to be dropped when sent */
    u32 segments, headers, bytes;
    struct segment segment[PORT_SEND_SEGMENTS_MAX];
    u8 header[PORT_SEND_SEGMENTS_MAX][NBD_REPLY_BYTES];
};

static struct batch *free_batches, *open;
static bool stalled;

static void release(struct batch *b)
{
    while (b->chunks) {
        struct chunk *c = b->chunks;
        b->chunks = c->next;
        chunk_drop(c);
    }
    b->next = free_batches;
    free_batches = b;
}

void reply_init(void)
{
    struct batch *batches = memory_take(sizeof *batches * BATCHES, 8);
    for (u32 i = BATCHES; i-- > 0;)
        release(&batches[i]);
}

static bool full(const struct batch *b)
{
    return b->segments == port_send_segments() || b->headers == PORT_SEND_SEGMENTS_MAX || b->bytes >= BATCH_BYTES;
}

static bool send(void)
{
    if (!port_send(open->segment, open->segments, open))
        return false;
    open = 0;
    return true;
}

/* An open batch with room for one more header or segment; false when none can be had now. */
static bool make_room(void)
{
    if (open && full(open) && !send())
        return false;
    if (open)
        return true;
    open = free_batches;
    if (!open)
        return false;
    free_batches = open->next;
    open->chunks = 0;
    open->segments = open->headers = open->bytes = 0;
    return true;
}

static void add(u8 *at, u32 length)
{
    open->bytes += length;
    struct segment *last = open->segments ? &open->segment[open->segments - 1] : 0;
    if (last && (u8 *)last->base + last->length == at)
        last->length += length;
    else
        open->segment[open->segments++] = (struct segment){at, length};
}

static void write_header(u8 *to, const struct job *job)
{
    put_be32(to, job->fate == REPLY_GARBAGE ? ~NBD_REPLY_MAGIC : NBD_REPLY_MAGIC);
    put_be32(to + 4, job->error);
    put_be32(to + 8, (u32)(job->cookie >> 32));
    put_be32(to + 12, (u32)job->cookie);
}

/* The job's next chunk, the first with the header before it; `cursor` now counts bytes sent. */
static void add_chunk(struct job *job)
{
    struct chunk *c = job->chunks;
    u32 n = (u32)min_u64(job->length - job->cursor, chunk_size);
    u32 head = job->header_sent ? 0 : NBD_REPLY_BYTES;
    if (head)
        write_header(c->data - head, job);
    add(c->data - head, head + n);
    job->cursor += n;
    job->header_sent = true;
    job->chunks = c->next;
    c->next = open->chunks;
    open->chunks = c;
}

static bool reply(struct job *job)
{
    bool data = job->chunks && !job->error && job->fate == REPLY;
    if (!job->header_sent)
        job->cursor = 0;
    do {
        if (!make_room())
            return false;
        if (data) {
            add_chunk(job);
        } else {
            u8 *header = open->header[open->headers++];
            write_header(header, job);
            add(header, NBD_REPLY_BYTES);
        }
    } while (data && job->chunks);
    return true;
}

bool reply_flush(u32 generation)
{
    struct job *job;
    bool did = false;
    stalled = false;
    while (!stalled && (job = job_done())) {
        bool wanted = job->fate != NO_REPLY && (job->generation == generation || job->header_sent);
        if (wanted && !reply(job)) {
            stalled = true;
        } else {
            job_shift();
            did = true;
        }
    }
    if (open && !send())
        stalled = true;
    return did;
}

void reply_reap(void)
{
    struct batch *b;
    while ((b = port_sent()))
        release(b);
}

bool reply_stalled(void) { return stalled; }
