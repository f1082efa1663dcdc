# SPDX-License-Identifier: GPL-2.0-or-later
"""An arbiter in a directory: local for a pair on one host, shared (e.g. NFS) for a pair on two.

    term-00000001.json   {"pair", "term", "winner", "members", "granted_at", "check"}   one record a term, never changed
    .grant-*             a record that is being written; left over only when its writer was killed

The test-and-set is link(2): a record is written whole under a name of its own, synced, and then linked to the term's
name, which succeeds for exactly one process on any host. So a record is never seen half written, and a crash at any
point leaves either no grant or a whole one. The directory is synced before anybody acts on a grant, also by those who
only find it there. Should a record be damaged all the same (a failing disk), its name still stands: the term stays
taken, nobody wins it a second time, and the error says what an operator can do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftvm.arbiter.arbiter import FIRST_TERM, ArbiterDamaged, ArbiterUnavailable, Grant

_RECORD = re.compile(r"term-([0-9]{8})\.json")
_RECORD_SIZE_MAX = 64 << 10
_TERM_MAX = 99_999_999


class FileArbiter:
    """Arbiter whose grants are files in `path`; `pair` names whose grants they are, so that two pairs never mix."""

    def __init__(self, path: Path | str, pair: str) -> None:
        self.path = Path(path)
        self._pair = pair

    def prepare(self) -> None:
        """Make the directory. Only for a pair's first start: a missing directory later on means a missing mount."""
        with _reachable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            _sync_directory(self.path.parent)

    def latest(self) -> Grant | None:
        """See `Arbiter.latest`."""
        terms = self._terms()
        return self._read(terms[-1]) if terms else None

    def history(self) -> list[Grant]:
        """All grants, in the order of their terms. Raises ArbiterError."""
        return [self._read(term) for term in self._terms()]

    def acquire(self, term: int, winner: str, members: tuple[str, ...]) -> Grant:
        """See `Arbiter.acquire`."""
        assert FIRST_TERM <= term <= _TERM_MAX and winner in members
        with _reachable(self.path):
            if not self._name(term).exists():
                self._check_predecessor(term)
                self._link(Grant(term, winner, members, time.time()))
            _sync_directory(self.path)
        return self._read(term)

    def _terms(self) -> list[int]:
        with _reachable(self.path):
            names = os.listdir(self.path)
        return sorted(int(match[1]) for name in names if (match := _RECORD.fullmatch(name)))

    def _check_predecessor(self, term: int) -> None:
        latest = self.latest()
        highest = latest.term if latest is not None else FIRST_TERM - 1
        if highest >= term and not self._name(term).exists():
            raise ArbiterDamaged(f"{self.path} holds term {highest}, but not term {term}: records were removed")
        if highest < term - 1:
            raise ArbiterDamaged(
                f"{self.path} was asked for term {term}, but knows no term after {highest}: is the right directory "
                "mounted there?"
            )

    def _link(self, grant: Grant) -> None:
        """Put the whole record under the term's name, unless another one is there."""
        temporary = self.path / f".grant-{uuid.uuid4().hex}"
        try:
            _write_synced(temporary, _encode(self._pair, grant))
            # Another process was first when this fails, or an NFS server that had lost its answer; _read tells.
            with suppress(FileExistsError):
                os.link(temporary, self._name(grant.term))
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self, term: int) -> Grant:
        path = self._name(term)
        with _reachable(self.path), path.open("rb") as file:
            content = file.read(_RECORD_SIZE_MAX)
        pair, grant = _decode(content, path)
        if grant.term != term:
            raise ArbiterDamaged(f"{path} holds a grant of term {grant.term}: it was renamed or copied")
        if pair != self._pair:
            raise ArbiterDamaged(f'{path} was granted to the pair "{pair}", not "{self._pair}"')
        return grant

    def _name(self, term: int) -> Path:
        return self.path / f"term-{term:08d}.json"


@contextmanager
def _reachable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArbiterUnavailable(f"the arbiter's directory {path} is not there: is it mounted?") from error
    except OSError as error:
        raise ArbiterUnavailable(f"the arbiter's directory {path} cannot be used: {error.strerror}") from error


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(pair: str, grant: Grant) -> bytes:
    record = {"pair": pair, **asdict(grant)}
    return json.dumps({**record, "check": _check(record)}, indent=1).encode() + b"\n"


def _decode(content: bytes, path: Path) -> tuple[str, Grant]:
    try:
        record = json.loads(content)
        check = record.pop("check")
        members = tuple(str(member) for member in record["members"])
        grant = Grant(int(record["term"]), str(record["winner"]), members, float(record["granted_at"]))
        pair = str(record["pair"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        check, record = None, {}
    if check != _check(record):
        raise ArbiterDamaged(
            f"{path} is damaged: who won this term cannot be known. Stop both sides; when neither runs, remove the "
            "file and start the side whose disk is newer"
        )
    return pair, grant


def _check(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
