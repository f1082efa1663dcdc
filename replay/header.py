# SPDX-License-Identifier: GPL-2.0-or-later
"""What a log says about itself: which machine it belongs to, from which images, run by which engine.

The header is a msgpack map with these keys; unknown ones are refused, since the format's number stands for them:

    machine        bytes   the machine file as resolved, in canonical form
    configuration  str     digest of what the machine is built from
    images         map     name of each image the guest started from -> digest
    engine         str     identity of the CPU engine, with its version
    rate           int     clock per tick of guest time (0: unknown): lets the log foretell the time at an entry's end
    pair           str     the pair that recorded it, or ""
    notes          map     anything else worth knowing (parent, creation date): str -> str; never compared
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any

import msgpack

from replay.errors import LogError

KEYS = {"machine": bytes, "configuration": str, "images": dict, "engine": str, "rate": int, "pair": str, "notes": dict}
DIFFERENCES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class LogHeader:
    """A log's header. Digests are strings (hexadecimal by custom), compared as they are."""

    machine: bytes
    configuration: str
    images: Mapping[str, str]
    engine: str
    rate: int = 0
    pair: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The msgpack map."""
        fields = {key: getattr(self, key) for key in KEYS}
        fields["images"], fields["notes"] = dict(self.images), dict(self.notes)
        packed: bytes = msgpack.packb(fields)
        return packed

    def differences(self, other: LogHeader) -> list[str]:
        """In words, how `other` is another machine's header; notes do not count."""
        wrong = image_differences(self.images, other.images)
        if (self.configuration, self.machine) != (other.configuration, other.machine):
            wrong.append("the machine is configured differently" + machine_difference(self.machine, other.machine))
        for key in ("engine", "pair", "rate"):
            old, new = getattr(self, key), getattr(other, key)
            if old != new:
                wrong.append(f"it was recorded with {key} {old!r}, here it is {new!r}")
        return wrong

    def check_against(
        self,
        *,
        configuration: str,
        images: Mapping[str, str],
        engine: str,
        machine: bytes = b"",
        pair: str | None = None,
    ) -> None:
        """`LogError` that says which image, setting or engine is not the recorded one."""
        wrong = image_differences(self.images, images)
        if self.configuration != configuration:
            wrong.append("the machine is configured differently" + machine_difference(self.machine, machine))
        if self.engine != engine:
            wrong.append(f"it was recorded with engine {self.engine!r}, here it is {engine!r}")
        if pair is not None and self.pair != pair:
            wrong.append(f"it belongs to pair {self.pair!r}, not to {pair!r}")
        if wrong:
            raise LogError("the log does not fit this machine: " + "; ".join(wrong))


def decode_header(data: bytes) -> LogHeader:
    """The header in `data`, checked field by field."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise LogError(f"log's header is not msgpack: {error}") from None
    if type(fields) is not dict or set(fields) != set(KEYS):
        raise LogError(f"log's header does not have exactly the fields {', '.join(KEYS)}")
    for key, kind in KEYS.items():
        if type(fields[key]) is not kind:
            raise LogError(f"log's header: {key} is {type(fields[key]).__name__}, not {kind.__name__}")
    for key in ("images", "notes"):
        _check_strings(key, fields[key])
    if not 0 <= fields["rate"] <= 0xFFFF_FFFF:
        raise LogError(f"log's header: rate {fields['rate']} is not an unsigned 32-bit number")
    return LogHeader(**fields)


def image_differences(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """In words, how the images differ."""
    wrong = []
    for name in sorted(recorded.keys() | present.keys()):
        old, new = recorded.get(name), present.get(name)
        if new is None:
            wrong.append(f"image {name!r} of the recording is missing here")
        elif old is None:
            wrong.append(f"image {name!r} was not there when it was recorded")
        elif old != new:
            wrong.append(f"image {name!r} has digest {new[:16]}, the recorded one {old[:16]}")
    return wrong


def machine_difference(recorded: bytes, present: bytes) -> str:
    """The first lines that differ between two machine files, or nothing when one is not at hand."""
    if not recorded or not present or recorded == present:
        return ""
    old, new = (text.decode("utf-8", "replace").splitlines() for text in (recorded, present))
    diff = list(unified_diff(old, new, lineterm="", n=0))[2:]  # without the two lines of file names
    lines = [line for line in diff if not line.startswith("@@")]
    return " (recorded -, here +: " + ", ".join(lines[:DIFFERENCES_SHOWN]) + ")" if lines else ""


def _check_strings(key: str, mapping: dict[Any, Any]) -> None:
    for name, value in mapping.items():
        if type(name) is not str or type(value) is not str:
            raise LogError(f"log's header: {key} does not map names to strings")
