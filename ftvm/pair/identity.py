# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a member is, and what two members must agree on before one follows the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from logging_channel.messages import PROTOCOL, Hello


@dataclass(frozen=True, slots=True)
class Identity:
    """One member of one pair."""

    pair_name: str
    member: str  # "a" or "b"
    configuration: str  # digest of what the guest can see, in hexadecimal
    images: tuple[tuple[str, str], ...]  # name of a guest image, its digest in hexadecimal
    engine: str

    @property
    def pair(self) -> int:
        """The number of the pair that every frame carries."""
        return int.from_bytes(hashlib.sha256(b"ftvm pair " + self.pair_name.encode()).digest()[:8], "little")

    def hello(self, term: int, executed: int, received: int) -> Hello:
        """What this member says first; it always takes the state over."""
        return Hello(
            protocol=PROTOCOL,
            configuration=bytes.fromhex(self.configuration),
            images=dict(self.images),
            engine=self.engine,
            pair_name=self.pair_name,
            member=self.member,
            term=term,
            executed=executed,
            received=received,
            wants_state=True,
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """How often a side says that it lives, and how long it waits for the other to say so. Milliseconds."""

    heartbeat_ms: float = 20.0
    timeout_ms: float = 200.0
