# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m bench.silence ADDRESS PORT`: a client that reads all that comes over one TCP connection, in a process of
its own since it is in a network of its own.

For each line on standard input it prints for how many milliseconds at most nothing had come, since the line before. It
ends when the connection does, with exit code 1, or at the end of its input.
"""

from __future__ import annotations

import select
import socket
import sys
import time

READ = 1 << 18


def main(address: str, port: str) -> int:
    """Until the end of standard input, or of the connection."""
    connection = socket.create_connection((address, int(port)), 20)
    connection.setblocking(False)
    heard, longest = time.monotonic(), 0.0
    while True:
        ready = select.select([connection, sys.stdin], [], [])[0]
        now = time.monotonic()
        if connection in ready:
            if not connection.recv(READ):
                return 1
            longest, heard = max(longest, now - heard), now
        if sys.stdin in ready:
            if not sys.stdin.readline():
                return 0
            print(max(longest, now - heard) * 1e3, flush=True)
            longest = 0.0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
