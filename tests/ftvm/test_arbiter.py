# SPDX-License-Identifier: GPL-2.0-or-later
"""The file arbiter: one winner a term, whatever races and whatever crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.arbiter.arbiter import Arbiter, ArbiterDamaged, ArbiterError, ArbiterUnavailable, Grant
from ftvm.arbiter.file import FileArbiter

RACER = """
import sys, time
from ftvm.arbiter.file import FileArbiter
path, me, first, last, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
arbiter = FileArbiter(path, "pair")
time.sleep(max(0.0, start - time.time()))
for term in range(first, last + 1):
    print(term, arbiter.acquire(term, me, (me,)).winner, flush=True)
"""


@pytest.fixture
def arbiter(tmp_path: Path) -> FileArbiter:
    """An arbiter of the pair "pair" that has granted nothing."""
    made = FileArbiter(tmp_path / "arbiter", "pair")
    made.prepare()
    return made


def racer(path: Path, me: str, first: int, last: int, start: float) -> subprocess.Popen[str]:
    """A process that asks for the terms from first to last, beginning at the wall time `start`."""
    arguments = [str(path), me, str(first), str(last), str(start)]
    return subprocess.Popen([sys.executable, "-c", RACER, *arguments], stdout=subprocess.PIPE, text=True)


def test_nothing_is_granted_at_first(arbiter: FileArbiter) -> None:
    assert arbiter.latest() is None and arbiter.history() == []


def test_the_first_to_ask_wins_and_everybody_is_told_the_same(arbiter: FileArbiter) -> None:
    one = arbiter.acquire(1, "a", ("a", "b"))
    assert (one.term, one.winner, one.members) == (1, "a", ("a", "b"))
    assert arbiter.acquire(1, "b", ("b",)) == one
    assert arbiter.acquire(1, "a", ("a",)) == one
    assert FileArbiter(arbiter.path, "pair").latest() == one


def test_terms_are_granted_one_after_the_other(arbiter: FileArbiter) -> None:
    arbiter.acquire(1, "a", ("a",))
    with pytest.raises(ArbiterDamaged, match="asked for term 3, but knows no term after 1"):
        arbiter.acquire(3, "b", ("b",))
    assert arbiter.acquire(2, "b", ("b",)).winner == "b"
    assert [grant.term for grant in arbiter.history()] == [1, 2]
    assert arbiter.acquire(1, "b", ("b",)).winner == "a"


def test_an_empty_directory_never_grants_a_later_term(arbiter: FileArbiter) -> None:
    """It is what a missing mount looks like."""
    with pytest.raises(ArbiterDamaged, match="is the right directory mounted there"):
        arbiter.acquire(2, "b", ("b",))


def test_a_term_whose_record_was_removed_is_not_granted_again(arbiter: FileArbiter) -> None:
    for term in (1, 2, 3):
        arbiter.acquire(term, "a", ("a",))
    (arbiter.path / "term-00000002.json").unlink()
    with pytest.raises(ArbiterDamaged, match="holds term 3, but not term 2"):
        arbiter.acquire(2, "b", ("b",))


def test_a_missing_or_closed_directory_is_unavailable(tmp_path: Path) -> None:
    missing = FileArbiter(tmp_path / "none", "pair")
    (tmp_path / "file").touch()
    for unusable in (missing, FileArbiter(tmp_path / "file", "pair")):
        with pytest.raises(ArbiterUnavailable):
            unusable.latest()
        with pytest.raises(ArbiterUnavailable):
            unusable.acquire(1, "a", ("a",))
    assert not missing.path.exists()


def test_processes_that_race_for_terms_agree_on_one_winner_each(arbiter: FileArbiter) -> None:
    names, last = ("a", "b", "c", "d"), 12
    start = time.time() + 0.6
    racers = [racer(arbiter.path, name, 1, last, start) for name in names]
    told = [process.communicate(timeout=30)[0].splitlines() for process in racers]
    assert all(process.returncode == 0 for process in racers)
    assert told[0] == told[1] == told[2] == told[3]
    assert [grant.term for grant in arbiter.history()] == list(range(1, last + 1))
    assert [f"{grant.term} {grant.winner}" for grant in arbiter.history()] == told[0]


def test_threads_that_race_for_one_term_agree(arbiter: FileArbiter) -> None:
    for term in range(1, 20):
        barrier = threading.Barrier(4)
        winners: list[str] = []

        def ask(me: str, term: int = term, barrier: threading.Barrier = barrier, out: list[str] = winners) -> None:
            barrier.wait()
            out.append(arbiter.acquire(term, me, (me,)).winner)

        threads = [threading.Thread(target=ask, args=(me,)) for me in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 4 and len(set(winners)) == 1


def test_a_racer_that_is_killed_leaves_whole_grants_only(arbiter: FileArbiter) -> None:
    for attempt in range(4):
        granted = arbiter.latest()
        first = granted.term + 1 if granted else 1
        process = racer(arbiter.path, "a", first, first + 5000, 0.0)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        history = arbiter.history()
        assert [grant.term for grant in history] == list(range(1, len(history) + 1))
        assert len(history) >= first
    following = len(arbiter.history()) + 1
    assert arbiter.acquire(following, "b", ("b",)).winner == "b"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"term": 1}', b"\xff", b"[" * 5000])
def test_a_damaged_record_is_told_and_never_won_again(content: bytes, arbiter: FileArbiter) -> None:
    arbiter.acquire(1, "a", ("a",))
    arbiter.acquire(2, "a", ("a",))
    (arbiter.path / "term-00000002.json").write_bytes(content)
    for term in (2, 3):
        with pytest.raises(ArbiterDamaged, match="damaged: who won this term cannot be known"):
            arbiter.acquire(term, "b", ("b",))
    with pytest.raises(ArbiterDamaged):
        arbiter.latest()
    assert arbiter.acquire(1, "b", ("b",)).winner == "a"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_changed_byte_of_a_record_is_noticed_or_harmless(data: st.DataObject, arbiter: FileArbiter) -> None:
    path = arbiter.path / "term-00000001.json"
    path.unlink(missing_ok=True)
    grant = arbiter.acquire(1, "a", ("a", "b"))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 10_000)) % len(content)
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), at]))])
    with suppress(ArbiterError):
        assert arbiter.latest() == grant


def test_a_copied_record_and_another_pairs_record_are_refused(arbiter: FileArbiter) -> None:
    arbiter.acquire(1, "a", ("a",))
    content = (arbiter.path / "term-00000001.json").read_bytes()
    (arbiter.path / "term-00000002.json").write_bytes(content)
    with pytest.raises(ArbiterDamaged, match="holds a grant of term 1: it was renamed or copied"):
        arbiter.latest()
    with pytest.raises(ArbiterDamaged, match='granted to the pair "pair", not "other"'):
        FileArbiter(arbiter.path, "other").acquire(1, "a", ("a",))


def test_other_files_in_the_directory_are_no_grants(arbiter: FileArbiter) -> None:
    arbiter.acquire(1, "a", ("a",))
    for name in (".grant-0", "term-00000009.json.bak", "term-9.json", "README"):
        (arbiter.path / name).write_text("x")
    latest = arbiter.latest()
    assert latest is not None and latest.term == 1


def test_a_full_disk_grants_nothing(arbiter: FileArbiter, monkeypatch: pytest.MonkeyPatch) -> None:
    arbiter.acquire(1, "a", ("a",))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArbiterUnavailable, match="No space left on device"):
        arbiter.acquire(2, "a", ("a",))
    monkeypatch.undo()
    latest = arbiter.latest()
    assert latest is not None and latest.term == 1
    assert sorted(path.name for path in arbiter.path.iterdir()) == ["term-00000001.json"]


def test_an_nfs_server_that_loses_its_answer_does_not_cost_the_winner_its_term(
    arbiter: FileArbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answer_lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", answer_lost)
    assert arbiter.acquire(1, "a", ("a",)).winner == "a"


def test_a_record_can_be_read_by_people(arbiter: FileArbiter) -> None:
    arbiter.acquire(1, "a", ("a", "b"))
    record = json.loads((arbiter.path / "term-00000001.json").read_text())
    assert {"pair": "pair", "term": 1, "winner": "a", "members": ["a", "b"]}.items() <= record.items()
    assert abs(record["granted_at"] - time.time()) < 60


def test_the_file_arbiter_is_an_arbiter(arbiter: FileArbiter) -> None:
    seen: Arbiter = arbiter
    assert isinstance(seen.acquire(1, "a", ("a",)), Grant)
