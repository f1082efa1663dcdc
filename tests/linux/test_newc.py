# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive that a kernel unpacks: its bytes, and that they depend on nothing but the tree."""

from __future__ import annotations

import gzip
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.linux import newc
from ftvm.linux.errors import FetchError

NAMES = st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,3}", fullmatch=True)


def unpack(data: bytes) -> list[tuple[str, list[int], bytes]]:
    """Name, header fields and content of each member, as the kernel's own unpacker reads them."""
    members = []
    at = 0
    while True:
        assert at % 4 == 0 and data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name[-1] == 0
        at = (at + 110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return members
        members.append((name[:-1].decode(), fields, data[at : at + size]))
        at = (at + size + 3) // 4 * 4


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=8))
@settings(max_examples=50)
def test_what_goes_in_comes_out_in_order_with_directories_first(contents: dict[str, bytes]) -> None:
    contents = {name: data for name, data in contents.items() if not any(o.startswith(name + "/") for o in contents)}
    members = unpack(newc.archive({name: newc.regular(data) for name, data in contents.items()}))
    names = [name for name, _, _ in members]
    assert names == sorted(names)
    assert {name: data for name, fields, data in members if stat.S_ISREG(fields[1])} == contents
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)
    assert len({fields[0] for _, fields, _ in members}) == len(members), "inode numbers make hard links"


def test_modes_links_and_devices_are_kept() -> None:
    tree = {"init": newc.regular(b"#!", 0o755), "bin": newc.link("usr/bin"), "dev/console": newc.character(5, 1)}
    found = {name: (fields, data) for name, fields, data in unpack(newc.archive(tree))}
    assert found["init"][0][1] == stat.S_IFREG | 0o755
    assert found["bin"] == (found["bin"][0], b"usr/bin") and stat.S_ISLNK(found["bin"][0][1])
    assert stat.S_ISCHR(found["dev/console"][0][1]) and found["dev/console"][0][9:11] == [5, 1]
    assert all(fields[2:4] == [0, 0] and fields[5] == 0 for fields, _ in found.values()), "owner and time"


def test_a_directory_is_read_with_its_links(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/program").write_bytes(b"code")
    (tmp_path / "a/b/program").chmod(0o750)
    (tmp_path / "a/link").symlink_to("b/program")
    tree = newc.from_directory(tmp_path)
    assert set(tree) == {"a", "a/b", "a/b/program", "a/link"}
    assert tree["a/b/program"] == newc.regular(b"code", 0o750)
    assert tree["a/link"] == newc.link("b/program")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FetchError, match="pipe: is neither a file"):
        newc.from_directory(tmp_path)


def test_the_same_tree_gives_the_same_bytes_whenever_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"a": newc.regular(b"1"), "b/c": newc.regular(b"2")}
    first = newc.packed(one)
    monkeypatch.setattr(time, "time", lambda: 12345.0)
    assert newc.packed(dict(reversed(one.items()))) == first
    assert gzip.decompress(first) == newc.archive(one)
