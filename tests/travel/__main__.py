# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.travel SEED [--recordings N] [--seconds S] [--first I]`: walks through random recordings.

Each is recorded, perhaps cut as a killed recorder leaves it, perhaps copied elsewhere, and walked through forwards and
backwards: a place must always be the same state. The first that is not is told, with the command that replays it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.travel.campaign import Broken, campaign, visit


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.travel", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("seed", nargs="?", default="1")
    parser.add_argument("--recordings", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="begin none after these")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first recording")
    parser.add_argument("--visit", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.visit:
        asked = json.loads(sys.stdin.read())
        machine = asked["machine"] and Path(asked["machine"])
        print(json.dumps(visit(Path(asked["log"]), machine, [(place[0], place[1]) for place in asked["places"]])))
        return 0
    with tempfile.TemporaryDirectory(prefix="ftvm-travel-") as directory:
        try:
            tally = campaign(
                given.seed, given.recordings, Path(directory), first=given.first, seconds=given.seconds,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )  # fmt: skip
        except Broken as broken:
            print(broken, file=sys.stderr)
            return 1
    print(f"seed {given.seed}: {tally}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
