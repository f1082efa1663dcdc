/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything bypasses the page cache: what the kernel holds of the disk would die with the driver.
 */
#include "disk.h"
#include "arena.h"
#include "linux.h"

#define WAIT_MS 10
#define WAITS_MAX 3000
#define BLKROGET 0x125e
#define BLKSSZGET 0x1268
#define BLKGETSIZE64 0x80081272

struct disk disk;
static u8 *scratch;                  /* one block */

static void ask(u32 what, void *answer, const char *name)
{
    s64 done = CALL3(SYS_IOCTL, disk.fd, what, answer);
    if (done < 0)
        fail("the disk does not tell its %s: error %d", name, (int)-done);
}

static s64 open_patiently(const char *path)
{
    s64 fd = 0;
    for (u32 n = 0; n < WAITS_MAX; n++) {
        fd = open_file(path, O_RDWR | O_DIRECT | O_NOATIME);
        if (fd == -EACCES || fd == -EROFS || fd == -EPERM)
            fd = open_file(path, O_RDONLY | O_DIRECT | O_NOATIME);
        if (fd >= 0)
            return fd;
        sleep_ms(WAIT_MS);
    }
    fail("%s cannot be opened: error %d", path, (int)-fd);
}

void disk_open(const char *path)
{
    int block = 0, read_only = 0;
    disk.fd = (s32)open_patiently(path);
    ask(BLKSSZGET, &block, "block size");
    ask(BLKGETSIZE64, &disk.size, "size");
    ask(BLKROGET, &read_only, "state");
    if (block < 512 || block > (int)PAGE)
        fail("%s has blocks of %d bytes; 512 to %u are served", path, block, PAGE);
    disk.block = (u32)block;
    disk.read_only = read_only;
    scratch = map_memory(PAGE);
}

u64 disk_down(u64 offset) { return offset & ~(u64)(disk.block - 1); }
u64 disk_up(u64 offset) { return disk_down(offset + disk.block - 1); }

/* Bytes [from, to) of the block at `offset` into `block`. */
static s32 fill(u8 *block, u64 offset, u32 from, u32 to)
{
    s64 done = CALL4(SYS_PREAD64, disk.fd, scratch, disk.block, offset);
    if (done != disk.block)
        return done < 0 ? (s32)-done : EIO;
    copy(block + from, scratch + from, to - from);
    return 0;
}

s32 disk_patch(u8 *data, u64 offset, u32 length, bool durable)
{
    u64 start = disk_down(offset), end = disk_up(offset + length);
    u32 head = (u32)(offset - start), tail = (u32)(offset + length - (end - disk.block));
    s32 error = fill(data, start, 0, head);
    if (!error)
        error = fill(data + (end - disk.block - start), end - disk.block, tail, disk.block);
    for (u64 at = start; !error && at < end;) {
        s64 done = CALL4(SYS_PWRITE64, disk.fd, data + (at - start), end - at, at);
        at += done > 0 ? (u64)done : 0;
        error = done > 0 ? 0 : done < 0 ? (s32)-done : EIO;
    }
    if (!error && durable)
        error = (s32)-CALL3(SYS_FDATASYNC, disk.fd, 0, 0);
    return error;
}
