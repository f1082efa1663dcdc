# SPDX-License-Identifier: GPL-2.0-or-later
"""The other process of the transport's tests: answers every message with itself. Not a test.

python echo_peer.py dial ADDRESS      says b"hello" on every connection
python echo_peer.py listen ADDRESS    prints its address, answers whoever comes
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from logging_channel.endpoint import LISTENER, Link, Sent
from logging_channel.transport import Dialer, Listener


def main(mode: str, address: str) -> None:
    """Run until killed."""
    end = Dialer(address) if mode == "dial" else Listener(address)
    print(end.address, flush=True)
    poller = select.poll()
    poller.register(end.fileno(), select.POLLIN)
    while True:
        while (arrival := end.receive()) is not None:
            peer, what = arrival
            if what is Link.CONNECTED and peer == LISTENER:
                end.send(peer, b"hello")
            elif isinstance(what, bytes):
                while end.send(peer, what) is Sent.FULL:
                    poller.poll(1)
        poller.poll()


if __name__ == "__main__":
    main(*sys.argv[1:])
