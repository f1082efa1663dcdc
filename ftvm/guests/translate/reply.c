/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One gathering buffer of what the port takes in one call.
 */
#include "reply.h"
#include "port.h"

static struct {
    _Alignas(8) u8 bytes[PORT_SEND_MAX];
    u32 length;
} out;

static void head(u8 *to, const struct job *job)
{
    put_be32(to, job->fate == REPLY_GARBAGE ? ~NBD_REPLY_MAGIC : NBD_REPLY_MAGIC);
    put_be32(to + 4, job->error);
    copy(to + 8, &job->cookie, sizeof job->cookie);
}

void reply_flush(void)
{
    if (out.length) {
        u32 length = out.length;
        out.length = 0;
        port_send(out.bytes, length);
    }
}

void reply(struct job *job)
{
    u32 length = job->command == NBD_READ && !job->error ? job->length : 0;
    if (length > REPLY_COPY_MAX) {
        reply_flush();
        head(job->data - NBD_REPLY_BYTES, job);
        port_send(job->data - NBD_REPLY_BYTES, NBD_REPLY_BYTES + length);
        return;
    }
    if (out.length + NBD_REPLY_BYTES + length > sizeof out.bytes)
        reply_flush();
    head(out.bytes + out.length, job);
    copy(out.bytes + out.length + NBD_REPLY_BYTES, job->data, length);
    out.length += NBD_REPLY_BYTES + length;
}
