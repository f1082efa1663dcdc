# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.fuzz TARGET [--seed N] [--seconds S] [--cases N] [--case FILE]`: fuzz one parser, or all of them.

Mutates valid samples under a seed; a failing case is written to a file, and the command that replays it is printed.
`hostile-guest` is of another kind: whole generated guests, each seed one of them, run twice in a process of their own.
`list` names the targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz import hostile_guest
from tests.fuzz.engine import Found, campaign, run_case
from tests.fuzz.targets import TARGETS

HOSTILE = "hostile-guest"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("target", choices=["list", "all", HOSTILE, *TARGETS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target")
    parser.add_argument("--cases", type=int, default=1 << 62, help="at most so many")
    parser.add_argument("--case", type=Path, help="run this one case")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="where failing cases go")
    parser.add_argument("--unguided", action="store_true", help="do not look at what cases reach")
    given = parser.parse_args(arguments)
    if given.target == "list":
        print("\n".join([*TARGETS, HOSTILE]))
        return 0
    if given.target == HOSTILE:
        return hostile_guest.main(given.seed, given.seconds, given.cases)
    names = list(TARGETS) if given.target == "all" else [given.target]
    if given.case is not None:
        run_case(TARGETS[given.target], given.case.read_bytes())
        print(f"{given.target}: {given.case}: nothing found")
        return 0
    failed = 0
    for name in names:
        try:
            report = campaign(
                TARGETS[name], given.seed, given.seconds, given.cases, given.keep, guide=not given.unguided
            )
        except Found as found:
            print(found, file=sys.stderr)
            failed = 1
            continue
        print(
            f"{name}: seed {given.seed}: {report.cases:,} cases in {report.seconds:.1f} s, corpus {report.corpus}, "
            f"{report.lines} lines reached: nothing found",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
