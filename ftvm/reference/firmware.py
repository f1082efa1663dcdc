# SPDX-License-Identifier: GPL-2.0-or-later
"""The SBI on the reference page, from the tables of its two halves: the C core's and `ftvm.sbi`'s."""

from __future__ import annotations

from collections.abc import Iterable

from ftvm.hart import FIRMWARE
from ftvm.reference.markdown import code, table, text
from ftvm.sbi import EXTENSIONS, LEGACY_LAST

Row = tuple[str, str, str, str]


def firmware() -> list[str]:
    """Extensions, functions, and what they do."""
    rows: list[tuple[int, Row]] = []
    for identity, name, functions in FIRMWARE:
        rows += _rows(identity, name, functions)
    for identity, extension in EXTENSIONS.items():
        rows += _rows(identity, extension.name, [(function.name, function.does) for function in extension.functions])
    rows.sort(key=lambda row: row[0])
    return [
        "## Firmware: the supervisor binary interface 2.0",
        "",
        *text("The host serves `ecall` from supervisor mode; one from user mode is the guest's own. No call waits."),
        *table(("extension", "function", "name", "what it does"), [row for _, row in rows]),
        *text(
            "Any other extension or function returns -2, not supported. Hart masks that name a hart other than 0 are",
            "invalid parameters, -3. The debug console's addresses are physical ones in RAM; its stream is that of the",
            "UART.",
        ),
    ]


def _rows(identity: int, name: str, functions: Iterable[tuple[str, str]]) -> list[tuple[int, Row]]:
    legacy = identity <= LEGACY_LAST  # it has no functions
    return [
        (identity, (f"{name} {identity:#x}", "" if legacy else str(number), code(function), does))
        for number, (function, does) in enumerate(functions)
    ]
