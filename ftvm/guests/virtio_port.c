/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Queues: 0 and 1 are port 0's receive and transmit, 2 and 3 the control pair, 4 + 2p and 5 + 2p those of port p + 1.
 * The handshake (5.3.6.2):
 *
 *   driver  DEVICE_READY 1
 *   device  PORT_ADD p             driver  PORT_READY 1
 *   device  PORT_NAME p "..."      driver  PORT_OPEN 1 if that is the name we look for
 *   device  PORT_OPEN 1 or 0       the host side of the port opened or closed
 *
 * All queues exist before DRIVER_OK, as the specification wants; only the found port's are ever used.
 */
#include "virtio_port.h"
#include "memory.h"
#include "trap.h"

#define F_MULTIPORT (1UL << 1)
#define CONFIG_MAX_PORTS 4
#define PORTS_MAX 32

#define QUEUE_CONTROL_IN 2
#define QUEUE_CONTROL_OUT 3

enum { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

struct control {
    u32 port;
    u16 event, value;
};

#define CONTROL_BUFFERS 16
#define CONTROL_BYTES 128            /* a message and a port's name */

static struct virtio device;
static struct queue control_in, control_out;
static struct port {
    struct queue receive, transmit;
} *ports, *port;
static u32 port_number, ports_max;
static const char *wanted;
static struct ring_descriptor *tables;           /* for the transmit queue of the port that is found */
static struct control *outgoing;     /* a ring of messages, reused in order */
static u32 outgoing_next;

static u32 queue_of(u32 number) { return number ? 2 * number + 2 : 0; }

static void say(u32 number, u16 event, u16 value)
{
    while (queue_reap(&control_out, 0)) {
    }
    struct control *m = &outgoing[outgoing_next++ % control_out.size];
    *m = (struct control){number, event, value};
    struct segment s = {m, sizeof *m};
    if (!queue_add(&control_out, &s, 1, 0, m))
        panic("port: the device takes no control messages");
    queue_publish(&control_out);
}

static void post_control(void *buffer)
{
    struct segment s = {buffer, CONTROL_BYTES};
    queue_add(&control_in, &s, 0, 1, buffer);
}

void port_open(const char *name)
{
    if (!virtio_find(&device, VIRTIO_ID_CONSOLE))
        panic("port: no virtio console device (version 2)");
    virtio_begin(&device, F_MULTIPORT);
    if (!(device.features & F_MULTIPORT))
        panic("port: the virtio console has no ports");
    wanted = name;
    ports_max = (u32)min_u64(virtio_config32(&device, CONFIG_MAX_PORTS), PORTS_MAX);
    ports = memory_take(sizeof *ports * ports_max, 8);
    for (u32 p = 0; p < ports_max; p++) {
        virtio_queue(&device, &ports[p].receive, queue_of(p));
        virtio_queue(&device, &ports[p].transmit, queue_of(p) + 1);
    }
    virtio_queue(&device, &control_in, QUEUE_CONTROL_IN);
    virtio_queue(&device, &control_out, QUEUE_CONTROL_OUT);
    virtio_ready(&device);
    tables = queue_tables(PORT_SEND_SEGMENTS_MAX);
    outgoing = memory_take(sizeof *outgoing * control_out.size, 8);
    for (u32 i = 0; i < CONTROL_BUFFERS && i < control_in.size; i++)
        post_control(memory_take(CONTROL_BYTES, 8));
    queue_publish(&control_in);
    say(0, DEVICE_READY, 1);
}

static bool is_wanted(const char *name, u32 length)
{
    while (length && name[length - 1] == 0)
        length--;
    return length == strlen(wanted) && memcmp(name, wanted, length) == 0;
}

static enum port_change obey(const struct control *m, u32 length)
{
    if (length < sizeof *m || m->port >= ports_max)
        return PORT_NOTHING;
    switch (m->event) {
    case PORT_ADD:
        say(m->port, PORT_READY, 1);
        return PORT_NOTHING;
    case PORT_NAME:
        if (port || !is_wanted((const char *)(m + 1), length - sizeof *m))
            return PORT_NOTHING;
        port = &ports[m->port];
        port_number = m->port;
        queue_use_tables(&device, &port->transmit, tables, PORT_SEND_SEGMENTS_MAX);
        say(port_number, PORT_OPEN, 1);
        return PORT_OPENED;
    case PORT_OPEN:
        return port && m->port == port_number && m->value == 0 ? PORT_CLOSED : PORT_NOTHING;
    default:
        return PORT_NOTHING;
    }
}

enum port_change port_control(void)
{
    enum port_change change = PORT_NOTHING;
    u32 length;
    struct control *m;
    while (change == PORT_NOTHING && (m = queue_reap(&control_in, &length))) {
        change = obey(m, length);
        post_control(m);
    }
    queue_publish(&control_in);
    return change;
}

u32 port_buffers(void) { return port ? port->receive.size : 0; }

void port_post(void *buffer, u32 length, void *token)
{
    struct segment s = {buffer, length};
    if (!queue_add(&port->receive, &s, 0, 1, token))
        panic("port: more receive buffers than the queue holds");
}

void *port_receive(u32 *length) { return port ? queue_reap(&port->receive, length) : 0; }
void *port_sent(void) { return port ? queue_reap(&port->transmit, 0) : 0; }
u32 port_send_segments(void) { return (u32)min_u64(port->transmit.chain_max, PORT_SEND_SEGMENTS_MAX); }

bool port_send(const struct segment *segments, u32 count, void *token)
{
    return queue_add(&port->transmit, segments, count, 0, token);
}

void port_kick(void)
{
    if (port) {
        queue_publish(&port->transmit);
        queue_publish(&port->receive);
    }
}

bool port_arm(bool sending)
{
    bool more = queue_arm(&control_in);
    if (port) {
        more |= queue_arm(&port->receive);
        if (sending)
            more |= queue_arm(&port->transmit);
    }
    return more;
}

void port_disarm(void)
{
    queue_disarm(&control_in);
    if (port) {
        queue_disarm(&port->receive);
        queue_disarm(&port->transmit);
    }
}

struct queue *port_queue(u32 i) { return i ? &port->transmit : &port->receive; }
