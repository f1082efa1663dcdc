# SPDX-License-Identifier: GPL-2.0-or-later
"""Random walks through random recordings, in the small; and that they notice what they should.

The campaign is a command of its own: `python -m tests.travel SEED --recordings N --seconds S`.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from ftvm.debugger import Debugger
from tests.travel.campaign import Broken, Walk, campaign, look, place_of
from tests.travel.recorded import record_driver

RECORDINGS = 10


@pytest.mark.timeout(600)
def test_a_place_is_one_state_however_one_comes_to_it(tmp_path: Path) -> None:
    tally = campaign("slice", RECORDINGS, tmp_path)
    assert tally.recordings == RECORDINGS and tally.places > 5 * RECORDINGS


def test_a_state_that_is_not_the_same_is_noticed(tmp_path: Path) -> None:
    """The control: a bit of RAM flips under a walk."""
    with Debugger.open(record_driver(tmp_path / "driver.log", requests=6)) as debugger:
        timeline = debugger.timeline
        timeline.seek(timeline.place_of(timeline.end.clock // 2))
        walk = Walk(debugger, Random(1), Broken)
        walk.seen[place_of(debugger)] = look(debugger)
        debugger.hart.load_ram(0x2_0000, b"\1")
        with pytest.raises(Broken, match="is another state than before"):
            walk._note()
