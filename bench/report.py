# SPDX-License-Identifier: GPL-2.0-or-later
"""The table for a reader: on a terminal, or in a page of the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.figure import Figure

FIRST: Final = "<!-- figures: written by python -m bench --page -->"
LAST: Final = "<!-- end of figures -->"
_MET: Final = {None: "", True: "yes", False: "no"}


def host() -> str:
    """What the figures were measured on, and how busy it is."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, load {load:.1f}"


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print all figures, and what they were measured on."""
    table = Table(title=f"ftvm benchmarks: {host()}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("goal")
    table.add_column("met")
    table.add_column("note")
    for figure in figures:
        table.add_row(*_cells(figure), style="red" if figure.met is False else "")
    console.print(table)


def _cells(figure: Figure) -> tuple[str, ...]:
    note = " ".join(figure.note.split())
    return figure.name, number(figure.value), figure.unit, figure.goal or "", _MET[figure.met], note


def write_page(page: Path, figures: Sequence[Figure], when: str) -> None:
    """Put the table between the marks of a Markdown page; ValueError when it has none."""
    before, first, rest = page.read_text().partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not first or not last:
        raise ValueError(f"{page} does not have the marks {FIRST} and {LAST}")
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(figure)) + " |" for figure in figures]
    head = ["| figure | value | unit | goal | met | note |", "|---|---:|---|---|---|---|"]
    table = "\n".join([first, f"{when}; {host()}.", "", *head, *rows, last])
    page.write_text(before + table + after)


def number(value: float | None) -> str:
    """Three digits that count, in full."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
