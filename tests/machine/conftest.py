# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test that takes `make` runs on a machine that lives through, and on one that is restored again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.machine.box import Box

MakeBox = Callable[..., Box]


@pytest.fixture(params=[0, 2], ids=["fresh", "restored"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeBox]:
    """Makes boxes, closes them at the end."""
    boxes: list[Box] = []

    def build(*args: object, **keywords: object) -> Box:
        boxes.append(Box(*args, swap=request.param, **keywords))  # type: ignore[arg-type]
        return boxes[-1]

    yield build
    for box in boxes:
        box.machine.close()
