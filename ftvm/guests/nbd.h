/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The NBD protocol's transmission phase, as far as blockd serves it (https://github.com/NetworkBlockDevice/nbd,
 * doc/proto.md): all numbers big-endian.
 *
 *   request  magic u32, flags u16, type u16, cookie u64, offset u64, length u32; a WRITE's data follows
 *   reply    magic u32, error u32, cookie u64; a successful READ's data follows
 */
#ifndef NBD_H
#define NBD_H

#define NBD_REQUEST_MAGIC 0x25609513U
#define NBD_REPLY_MAGIC 0x67446698U
#define NBD_REQUEST_BYTES 28
#define NBD_REPLY_BYTES 16

/* The longest READ or WRITE that the port takes; the host side splits longer ones. */
#define NBD_DATA_MAX (1U << 20)

enum nbd_command {
    NBD_READ = 0,
    NBD_WRITE = 1,
    NBD_DISCONNECT = 2,
    NBD_FLUSH = 3,
    NBD_TRIM = 4,
    NBD_WRITE_ZEROES = 6,
    NBD_CRASH = 0x4654,              /* ours, with `crash=on` only: see crash.h */
};

enum nbd_flag { NBD_FLAG_FUA = 1, NBD_FLAG_NO_HOLE = 2 };

enum nbd_error {
    NBD_OK = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
};

#endif
