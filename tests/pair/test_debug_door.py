# SPDX-License-Identifier: GPL-2.0-or-later
"""A look into a machine that runs on: what a debugger gets is the moment at which it asked, and all that followed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.attach import Attached
from ftvm.config_text import to_toml
from ftvm.debugger import Debugger
from ftvm.pair.debug_door import TOO_SLOW, DebugDoor
from ftvm.pair.debug_wire import NAME, Kind, MessageReader
from ftvm.state_dir import StateDir
from ftvm.world.unix_listener import connect_unix
from logging_channel.errors import ChannelError
from replay.entry import Entry, EpochResult, encode_entry
from tests.machine.box import Box, blockd_config

WRITE = 1
CALL_S = 60.0


class Backup(Box):
    """A driver VM under writes, with a door; it stands for a side that follows."""

    def __init__(self, state: StateDir, held_max: int = 1 << 28, history: int = 0) -> None:
        super().__init__(blockd_config())
        state.create()
        state.keep_machine(to_toml(self.config))
        self.chance = random.Random(5)
        self.until("blockd: ready")
        self.door = DebugDoor(
            state.side("b"), self.machine, self.disks, lambda: None, held_max=held_max, history=history
        )
        run = self.machine.run

        def told(entry: Entry) -> EpochResult:
            result = run(entry)
            self.door.executed(encode_entry(entry), result)
            return result

        self.machine.run = told  # type: ignore[method-assign]

    def write(self, size: int = 1024) -> None:
        """One request, answered."""
        self.run(self.request(1, WRITE, self.chance.randrange(1000) * 512, data=self.chance.randbytes(size)))
        self.wait()
        self.door.boundary()

    def until_done(self, call: Callable[[], object]) -> object:
        """The guest runs on while another thread does this."""
        done: list[object] = []

        def work() -> None:
            try:
                done.append(call())
            except Exception as error:
                done.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            self.write()
            thread.join(0.001)
        return done[0]

    def close(self) -> None:
        """All is over."""
        self.door.close("the test ends")
        self.door.join()
        self.machine.close()


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "pair")


@pytest.fixture
def backup(state: StateDir) -> Iterator[Backup]:
    box = Backup(state)
    yield box
    box.close()


def attach(state: StateDir, log: Path) -> Attached:
    return Attached(state, "b", log)


def test_the_moment_and_what_follows_are_the_machines(backup: Backup, state: StateDir, tmp_path: Path) -> None:
    attached = backup.until_done(lambda: attach(state, tmp_path / "one.log"))
    assert isinstance(attached, Attached)
    for _ in range(20):
        backup.write()
    backup.door.close("enough")
    attached._thread.join(CALL_S)
    assert attached.over == "enough"
    with Debugger.open(attached.log) as debugger:
        timeline = debugger.timeline
        assert timeline.start.sequence == attached.sequence and len(timeline.entries) >= 40
        timeline.seek(timeline.end)  # every digest on the way is compared
        assert timeline.end.sequence == backup.machine.sequence
        assert debugger.machine.digest() == backup.machine.digest()
        assert bytes(debugger.hart.ram) == bytes(backup.machine.hart.ram)
        assert debugger.disks[0].read(0, 1 << 20) == backup.disks[0].read(0, 1 << 20)
        timeline.seek(timeline.start)
        assert timeline.run_back().why.name == "EDGE"
    attached.close()


def test_debuggers_come_one_after_the_other(backup: Backup, state: StateDir, tmp_path: Path) -> None:
    reached = []
    for number in range(3):
        attached = backup.until_done(lambda number=number: attach(state, tmp_path / f"{number}.log"))
        assert isinstance(attached, Attached)
        reached.append(attached.sequence)
        backup.until_done(attached.close)
    assert reached == sorted(set(reached))
    end = time.monotonic() + CALL_S
    while backup.disks[0].before_change is not None:  # the last one is let go of
        assert time.monotonic() < end
        backup.write()


def test_a_debugger_that_reads_nothing_is_let_go_of(state: StateDir) -> None:
    """Memory for what it has not taken is bounded."""
    backup = Backup(state, held_max=1 << 16)
    with connect_unix(state.side("b") / NAME) as connection:
        end = time.monotonic() + CALL_S
        while (moment := backup.door._moment) is None:
            assert time.monotonic() < end
            backup.write(4096)
        while not moment.over:
            assert time.monotonic() < end
            backup.write(4096)
        reader, kinds = MessageReader(connection), []
        while not kinds or kinds[-1][0] != Kind.BYE:
            found = reader.receive()
            assert found is not None
            kinds.append(found)
        assert kinds[0][0] == Kind.HELLO and kinds[-1][1].decode() == TOO_SLOW
    backup.write()
    backup.close()


def test_a_backup_with_history_gives_what_was_before_one_came(state: StateDir, tmp_path: Path) -> None:
    """Back to a moment before the debugger came; and the memory for it is bounded, however long the guest runs."""
    backup = Backup(state, history=1 << 20)
    most = 0
    for number in range(400):
        backup.write(4096)
        most = max(most, sum(moment.held for moment in backup.door._past))
        if number == 10:
            assert backup.door._past[0].sequence < backup.machine.sequence - 15
    assert most < 3 << 20, "half as much again, and what one epoch adds"
    oldest, present = backup.door._past[0].sequence, backup.machine.sequence
    assert 20 < present - oldest < 800
    attached = backup.until_done(lambda: attach(state, tmp_path / "past.log"))
    assert isinstance(attached, Attached)
    assert attached.sequence >= oldest and len(backup.door._past) >= 1
    with Debugger.open(attached.log) as debugger:
        timeline = debugger.timeline
        assert timeline.end.sequence >= present
        timeline.seek(timeline.end)
        for _ in range(5):
            assert timeline.step_back()
        timeline.seek(timeline.start)
        assert timeline.position.sequence == attached.sequence < present - 10
    backup.until_done(attached.close)
    backup.close()
    assert backup.disks[0].before_change is None


def test_a_door_that_is_closed_says_why_and_leaves_no_name(backup: Backup, state: StateDir, tmp_path: Path) -> None:
    attached = backup.until_done(lambda: attach(state, tmp_path / "one.log"))
    assert isinstance(attached, Attached)
    backup.door.close("this side is primary now")
    attached._thread.join(CALL_S)
    assert attached.over == "this side is primary now"
    attached.close()
    assert not (state.side("b") / NAME).exists() and backup.disks[0].before_change is None
    with pytest.raises(ChannelError, match="no backup that can be looked at"):
        attach(state, tmp_path / "two.log")


def test_another_machine_file_is_noticed(backup: Backup, state: StateDir, tmp_path: Path) -> None:
    state.keep_machine(to_toml(blockd_config(cmdline="")))
    answer = backup.until_done(lambda: attach(state, tmp_path / "one.log"))
    assert isinstance(answer, ChannelError) and "another machine" in str(answer)
