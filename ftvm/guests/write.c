/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One piece is open at a time. Data that lies in a receive buffer becomes a segment of it as it is; fragments shorter
 * than a sector are gathered in a bounce buffer, adjacent ones as one segment, so that a full piece always holds whole
 * sectors. A full piece is cut at a sector boundary, and what lies behind it starts the next piece.
 */
#include "write.h"
#include "crash.h"

#define FEW_SEGMENTS 8               /* a device that takes fewer gets everything from the bounce buffer */

static struct piece *open;

static bool copy_all(void) { return disk.segments_max < FEW_SEGMENTS; }

static bool full(const struct piece *p)
{
    u32 room = chunk_size - p->bounced;
    if (copy_all())
        return room == 0;                                  /* one segment, whole sectors */
    return p->request.segments == disk.segments_max || room < SECTOR;
}

static void add_segment(struct piece *p, struct chunk *c, u8 *at, u32 length)
{
    u32 n = p->request.segments;
    struct segment *last = n ? &p->request.segment[n - 1] : 0;
    p->bytes += length;
    if (last && (u8 *)last->base + last->length == at && p->held[n - 1] == c) {
        last->length += length;
        return;
    }
    chunk_hold(c);
    p->held[n] = c;
    p->request.segment[n] = (struct segment){at, length};
    p->request.segments++;
}

static u32 bounce(struct piece *p, const u8 *at, u32 length)
{
    if (!p->bounce && !(p->bounce = chunk_take()))
        return 0;
    length = (u32)min_u64(length, chunk_size - p->bounced);
    u8 *to = p->bounce->data + p->bounced;
    memcpy(to, at, length);
    add_segment(p, p->bounce, to, length);
    p->bounced += length;
    return length;
}

/* Moves the `excess` last bytes of `from` to the front of `to`. */
static void move_tail(struct piece *from, struct piece *to, u32 excess)
{
    u32 first = from->request.segments, part = excess;
    while (from->request.segment[first - 1].length < part)
        part -= from->request.segment[--first].length;
    struct segment *s = &from->request.segment[--first];
    add_segment(to, from->held[first], (u8 *)s->base + s->length - part, part);
    for (u32 i = first + 1; i < from->request.segments; i++) {
        add_segment(to, from->held[i], from->request.segment[i].base, from->request.segment[i].length);
        chunk_drop(from->held[i]);
    }
    s->length -= part;
    if (s->length == 0)
        chunk_drop(from->held[first]);
    from->request.segments = s->length ? first + 1 : first;
    from->bytes -= excess;
}

static void submit(struct piece *p)
{
    p->job->cursor += p->bytes;
    if (crash_if_poisoned(p) || p->job->error)
        piece_release(p);
    else
        piece_submit(p);
}

/* Submits the open piece; false when its tail needs a piece and there is none. */
static bool close_piece(struct job *job)
{
    struct piece *p = open, *rest = 0;
    u32 excess = p->bytes % SECTOR;
    if (excess) {
        rest = piece_take(job, BLK_WRITE);
        if (!rest)
            return false;
        rest->request.header.sector = p->request.header.sector + p->bytes / SECTOR;
        move_tail(p, rest, excess);
    }
    open = rest;
    submit(p);
    return true;
}

u32 write_data(struct job *job, struct chunk *c, u8 *at, u32 length, u32 left)
{
    if (open && full(open) && !close_piece(job))
        return 0;
    if (!open && !(open = piece_take(job, BLK_WRITE)))
        return 0;
    if (length < SECTOR || copy_all())
        length = bounce(open, at, length);
    else
        add_segment(open, c, at, length);
    if (length && length == left)
        close_piece(job);                                  /* the whole is in sectors: nothing is left over */
    return length;
}

void write_abandon(void)
{
    if (open)
        piece_release(open);
    open = 0;
}
