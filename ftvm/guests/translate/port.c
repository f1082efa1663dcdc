/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A port's device is named by its place (vport1p1), its purpose by /sys/class/virtio-ports/PLACE/name.
 */
#include "port.h"

#define CLASS "/sys/class/virtio-ports/"
#define NAME_MAX 64
#define WAIT_MS 10
#define WAITS_MAX 3000

struct directory_entry {
    u64 inode, next;
    u16 length;
    u8 kind;
    char name[];
};

static s64 fd;

static char *join(char *to, const char *end, const char *part)
{
    while (*part && to < end - 1)
        *to++ = *part++;
    *to = 0;
    return to;
}

static bool has_name(const char *place, const char *wanted)
{
    char path[NAME_MAX * 2], name[NAME_MAX];
    const char *end = path + sizeof path;
    join(join(join(path, end, CLASS), end, place), end, "/name");
    s64 file = open_file(path, O_RDONLY);
    s64 length = file < 0 ? 0 : CALL3(SYS_READ, file, name, NAME_MAX - 1);
    if (file >= 0)
        CALL3(SYS_CLOSE, file, 0, 0);
    if (length <= 0)
        return false;
    name[length - (name[length - 1] == '\n')] = 0;
    return same(name, wanted);
}

/* Puts the path of the port's device into `path`. */
static bool find(const char *wanted, char *path, const char *end)
{
    static _Alignas(8) u8 entries[1024];
    bool found = false;
    s64 length, directory = open_file(CLASS, O_RDONLY);
    while (!found && directory >= 0 && (length = CALL3(SYS_GETDENTS64, directory, entries, sizeof entries)) > 0)
        for (s64 at = 0; at < length && !found; at += ((struct directory_entry *)(entries + at))->length) {
            const char *place = ((struct directory_entry *)(entries + at))->name;
            found = place[0] != '.' && has_name(place, wanted);
            if (found)
                join(join(path, end, "/dev/"), end, place);
        }
    if (directory >= 0)
        CALL3(SYS_CLOSE, directory, 0, 0);
    return found;
}

void port_open(const char *name)
{
    char path[NAME_MAX];
    for (u32 n = 0; n < WAITS_MAX; n++) {
        if (find(name, path, path + sizeof path) && (fd = open_file(path, O_RDWR | O_NONBLOCK | O_NOATIME)) >= 0)
            return;
        sleep_ms(WAIT_MS);
    }
    fail("there is no virtio port %s, or it is in use", name);
}

s32 port_file(void) { return (s32)fd; }

static void wait_for(u16 events)
{
    struct {
        s32 fd;
        u16 events, result;
    } poll = {(s32)fd, events, 0};
    CALL4(SYS_PPOLL, &poll, 1, 0, 0);
}

u32 port_receive(struct iovec *into, u32 count)
{
    s64 length = count == 1 ? CALL3(SYS_READ, fd, into->base, into->length) : CALL3(SYS_READV, fd, into, count);
    if (length >= 0)
        return (u32)length;
    if (length != -EAGAIN && length != -EINTR)
        fail("the port cannot be read: error %d", (int)-length);
    return 0;
}

void port_send(const u8 *data, u64 length)
{
    while (length) {
        s64 sent = CALL3(SYS_WRITE, fd, data, length);
        if (sent == -EAGAIN) {
            wait_for(POLLOUT);
        } else if (sent < 0 && sent != -EINTR) {
            fail("the port cannot be written: error %d", (int)-sent);
        } else if (sent > 0) {
            data += sent;
            length -= (u64)sent;
        }
    }
}
