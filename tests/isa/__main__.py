# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.isa SEED [--programs N] [--seconds S] [--first I]`: ftvm's hart against QEMU, program by program.

Generated supervisor-mode programs of rv64imafdc with traps, page tables, interrupts and user mode run on both; all
registers, the log of traps and all memory are compared. The first program that differs is made small and shown.
"""

from __future__ import annotations

import argparse
import sys

from tests.isa.campaign import Mismatch, campaign


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.isa", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("seed", nargs="?", default="1")
    parser.add_argument("--programs", type=int, default=10_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="begin no batch after these")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first program")
    given = parser.parse_args(arguments)
    try:
        tally = campaign(
            given.seed, given.programs, first=given.first, seconds=given.seconds,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    except Mismatch as mismatch:
        print(mismatch, file=sys.stderr)
        return 1
    print(f"seed {given.seed}: {tally}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
