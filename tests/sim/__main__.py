# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.sim SEED [--steps N] [--verbose]`, or a campaign: `--from N --count N --budget-seconds S`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.sim.run import Simulation, command, simulate, tell


def main() -> int:
    """Exit 1 when a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this seed")
    parser.add_argument("--steps", type=int, help="at most so many faults")
    parser.add_argument("--verbose", action="store_true", help="tell all events")
    parser.add_argument("--from", dest="first", type=int, default=0, help="first seed of a campaign")
    parser.add_argument("--count", type=int, default=1000, help="seeds of a campaign")
    parser.add_argument("--budget-seconds", type=float, default=60.0, help="a campaign ends after so long")
    parser.add_argument("--go-on", action="store_true", help="a campaign goes on after a failing seed")
    parser.add_argument("--guest", choices=("toy", "blockd", "console"), default="toy", help="the machine's guest")
    options = parser.parse_args()
    if options.seed is None:
        return _campaign(options.first, options.count, options.budget_seconds, options.go_on, options.guest)
    return _one(options.seed, options.steps, options.verbose, options.guest)


def _one(seed: int, steps: int | None, verbose: bool, guest: str) -> int:
    simulation = Simulation(seed, steps, guest)
    code = 0
    try:
        print(simulation.run())
    except Exception as error:
        error.add_note(command(seed, steps, guest))
        traceback.print_exc()
        code = 1
    if verbose or code:
        print(f"{simulation.setup}\n" + "\n".join(tell(simulation.cluster, 4000 if verbose else 60)))
    return code


def _campaign(first: int, count: int, budget_s: float, go_on: bool, guest: str) -> int:
    begin, done, failed = time.monotonic(), 0, []
    outputs = terms = cold = repeats = 0
    for seed in range(first, first + count):
        if time.monotonic() - begin > budget_s:
            break
        try:
            report = simulate(seed, None, guest)
            outputs, terms, cold = outputs + report.outputs, terms + report.terms, cold + report.cold_starts
            repeats += report.repeats
        except Exception as error:
            failed.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {error}\n  {command(seed, None, guest)}", flush=True)
            if not go_on:
                break
        done += 1
    seconds = time.monotonic() - begin
    print(
        f"{done} seeds from {first} in {seconds:.1f} s ({seconds / max(done, 1) * 1e3:.0f} ms each): "
        f"{len(failed)} failed; "
        f"{terms} terms, {cold} cold starts, {outputs} outputs, {repeats} repeated"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
