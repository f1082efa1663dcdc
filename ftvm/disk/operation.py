# SPDX-License-Identifier: GPL-2.0-or-later
"""`Operation`: one change of a disk, or a sync."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["write", "zero", "discard", "sync"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change that waits behind a sync, or the sync."""

    kind: Kind
    offset: int = 0
    length: int = 0
    data: bytes = b""
