# SPDX-License-Identifier: GPL-2.0-or-later
"""Lag of a backup, from samples of a pair's status: a recording itself holds no time of the host.

    while sleep 0.2; do ftvm status NAME --json; done > lag.json      (while the pair runs)
    ftvm log export LOG --perfetto OUT --status lag.json

Each sample of a protected pair says which entry the primary was at, which its backup had acknowledged, and how long the
backup was behind. So a sample belongs to the guest time of that entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replay.errors import LogError

SAMPLES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What a primary has said: it is at `sequence`, its backup is so far behind, so many entries are on their way."""

    sequence: int
    lag_ms: float
    unacknowledged: int


def read_samples(path: Path) -> list[Sample]:
    """The samples in a file of JSON documents, by their entries; LogError when there is anything else in it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"cannot read {path}: {error}") from None
    samples = [sample for document in _documents(path, text) if (sample := _sample(document)) is not None]
    return sorted(samples, key=lambda sample: sample.sequence)


def _documents(path: Path, text: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(), 0
    for _ in range(SAMPLES_MAX):
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise LogError(f"{path} is not what ftvm status --json prints: {error}") from None
        yield document


def _sample(document: Any) -> Sample | None:
    """None where there was no primary with a backup in sync."""
    try:
        side = document["sides"][document["primary"]]
        sequence, acked, lag = (side[name] for name in ("sequence", "acked", "lag_ms"))
        protected = document["protected"]
    except (KeyError, TypeError):
        return None
    if protected is not True or type(sequence) is not int or type(acked) is not int or type(lag) not in (int, float):
        return None
    return Sample(sequence, float(lag), max(0, sequence - acked))
