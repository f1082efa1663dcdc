# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m bench`: run the benchmarks, print one table, write JSON.

    --quick        within three minutes: shorter measurements, five kills
    --json         print the JSON list of {name, value, unit, goal, met} instead of the table
    --out FILE     also write the JSON list to FILE (bench.json unless --json or --only is given)
    --page FILE    also put the table between the marks of a Markdown page (docs/benchmarks.md)
    --only NAME    one section (may be given more than once)

A section that fails becomes a figure without a value that says why, and exit code 1. Goals that are not met do not
change the exit code: they are told.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import block, engine, kills, linux, linux_block, look, network, pair, qemu, repair, travel
from bench.effort import FULL, QUICK, Bench, Effort
from bench.figure import Figure
from bench.report import show, write_page

Section = Callable[[Bench], Iterator[Figure]]
SECTIONS: Final[dict[str, Section]] = {
    "clock": engine.clock_hook,
    "recording": engine.recording,
    "replaying": engine.replaying,
    "log": engine.log_size,
    "pair": pair.paired,
    "block": block.service,
    "requests": block.request_log,
    "kills": kills.kills,
    "qemu": qemu.peers,
    "linux": linux.stock,
    "linux-block": linux_block.service,
    "network": network.traffic,
    "repair": repair.joins,
    "travel": travel.travel,
    "look": look.look,
}
# They fetch a kernel from the package mirror the first time.
FULL_ONLY: Final = frozenset({"linux", "linux-block", "network", "repair"})


def run_section(name: str, effort: Effort, say: Callable[[str], None]) -> list[Figure]:
    """All figures of one section; a failure is the last of them."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as directory:
        try:
            figures.extend(SECTIONS[name](Bench(effort, Path(directory), say)))
        except Exception as error:  # one broken section must not cost the others
            say(traceback.format_exc())
            figures.append(Figure(f"{name}: failed", None, "", note=f"{type(error).__name__}: {error}"[-400:]))
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="Shorter measurements: within three minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--only", multiple=True, type=click.Choice(list(SECTIONS)), help="Only this section; repeatable.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JSON to FILE.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Also put it into a page.")
def main(quick: bool, as_json: bool, only: Sequence[str], out: Path | None, page: Path | None) -> None:
    """Measure ftvm against baselines in the same run."""
    errors = Console(stderr=True, highlight=False, markup=False)
    start = time.monotonic()
    figures: list[Figure] = []
    for name in only or [name for name in SECTIONS if not (quick and name in FULL_ONLY)]:
        errors.print(f"{time.monotonic() - start:5.0f} s  {name}")
        figures += run_section(name, QUICK if quick else FULL, lambda text: errors.print(f"           {text}"))
    text = json.dumps([figure.as_dict() for figure in figures], indent=1)
    if as_json:
        click.echo(text)
    else:
        show(figures, Console(width=180 if not sys.stdout.isatty() else None, highlight=False))
    if out is None and not (as_json or only):
        out = Path("bench.json")
    if out is not None:
        out.write_text(text + "\n")
    if page is not None:
        write_page(page, figures, f"{'A quick run' if quick else 'A full run'} of {time.strftime('%Y-%m-%d')}")
    errors.print(f"{time.monotonic() - start:5.0f} s  done")
    if any(figure.name.endswith(": failed") for figure in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
