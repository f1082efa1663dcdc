# SPDX-License-Identifier: GPL-2.0-or-later
"""The table for a reader."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.figure import Figure


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print all figures, and what they were measured on."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    title = f"ftvm benchmarks: {platform.machine()}, {cores} cores, Python {platform.python_version()}, load {load:.1f}"
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("goal")
    table.add_column("met")
    table.add_column("note")
    for figure in figures:
        met = {None: "", True: "yes", False: "[red]no[/red]"}[figure.met]
        table.add_row(figure.name, number(figure.value), figure.unit, figure.goal or "", met, figure.note)
    console.print(table)


def number(value: float | None) -> str:
    """Three digits that count, in full."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
