# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of the page: tables of what the code says, and tables that stand in the code's own docstrings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import wrap
from types import ModuleType

WIDTH = 120


def text(*parts: str) -> list[str]:
    """A paragraph."""
    return [*wrap(" ".join(parts), WIDTH, break_long_words=False, break_on_hyphens=False), ""]


def items(*parts: str) -> list[str]:
    """A list."""
    lines = []
    for part in parts:
        lines += wrap(f"- {part}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [*lines, ""]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table's lines."""
    return [_row(head), _row(["---"] * len(head)), *(_row(list(map(str, row))) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def tables_of(module: ModuleType) -> list[list[str]]:
    """The tables in a module's docstring, each as its lines, an empty one last."""
    lines = (module.__doc__ or "").splitlines()
    blocks = groupby(lines, key=lambda line: line.startswith("|"))
    return [[*block, ""] for is_table, block in blocks if is_table]


def address(value: int) -> str:
    """An address as 0x1000_0000."""
    text = f"{value:08x}"
    return f"0x{text[:-4]}_{text[-4:]}"


def code(text: object) -> str:
    """A word of a program."""
    return f"`{text}`"
