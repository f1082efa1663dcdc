# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m ftvm.pair.main`: the process of one side as a launcher starts it. Not meant to be called by hand: use
`ftvm pair`, or `ftvm primary` and `ftvm backup`, which run the same `Side` in the foreground."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ftvm.arbiter.arbiter import ArbiterError
from ftvm.config import load
from ftvm.config_error import ConfigError
from ftvm.disk.errors import DiskRefused
from ftvm.image import ImageError
from ftvm.pair import spare
from ftvm.pair.services import inherit
from ftvm.pair.side import ExitCode, Options, Side
from ftvm.say import Say
from ftvm.state_dir import StateDir, StateDirError
from logging_channel.errors import ChannelError
from replay.errors import LogError

TOLD = (ArbiterError, ConfigError, DiskRefused, ImageError, StateDirError, ChannelError, LogError, OSError)


def run_side(state: StateDir, options: Options, say: Say) -> int:
    """Run a side in this process until it ends; returns its exit code."""
    try:
        lock = state.lock_side(options.member)
        try:
            side = Side(state, load(state.machine), options, say)
            signal.signal(signal.SIGTERM, lambda *_: side.stop())
            signal.signal(signal.SIGINT, lambda *_: side.stop())
            # What was built lives as long as the process: a collection in mid-load would look at it again and again.
            gc.collect()
            gc.freeze()
            return int(side.run())
        finally:
            lock.release()
    except TOLD as error:
        say.error(str(error))
        return int(ExitCode.FAILED)


def main(arguments: list[str], services: Sequence[int] = ()) -> int:
    """Parse what the launcher passes, and run. `services`: descriptors that came another way than by inheritance."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.pair.main")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--spare", type=int, metavar="FD")
    parser.add_argument("--member")
    parser.add_argument("--join")
    parser.add_argument("--services", default="")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--checkpoints", type=int, default=0, metavar="BYTES")
    parser.add_argument("--unprotected", action="store_true")
    parser.add_argument("--log-json", action="store_true")
    given = parser.parse_args(arguments)
    if given.spare is not None:
        return spare.wait(given.spare, main)
    if given.member is None:
        parser.error("--member is missing")
    state = StateDir(given.state_dir)
    options = Options(
        member=given.member,
        join=given.join,
        services=inherit(services or [int(fd) for fd in given.services.split(",") if fd]),
        record=given.record,
        checkpoints=given.checkpoints,
        open_at_once=given.unprotected,
    )
    return run_side(state, options, Say(given.member, given.log_json))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
