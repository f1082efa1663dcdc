# SPDX-License-Identifier: GPL-2.0-or-later
"""`Sample`: every n-th of something, with n as small as a bounded number allows; n doubles when there come too many."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Sample(Generic[T]):
    """Evenly spread over what was offered; all of it while `stride` is 1."""

    def __init__(self, most: int) -> None:
        self.stride = 1
        self.offered = 0
        self.kept: list[T] = []
        self._most = most

    def wants_next(self) -> bool:
        """Whether what is offered next will be kept: if not, it need not be made."""
        return self.offered % self.stride == 0

    def offer(self, item: T | None) -> None:
        """Take note of one more; None when it is not wanted."""
        if self.wants_next():
            assert item is not None
            if len(self.kept) >= self._most:
                self.kept = self.kept[::2]
                self.stride *= 2
            if self.wants_next():
                self.kept.append(item)
        self.offered += 1
