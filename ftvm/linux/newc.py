# SPDX-License-Identifier: GPL-2.0-or-later
"""The cpio archive that a Linux kernel unpacks as its first root file system ("newc" format).

    header (110 bytes: "070701" and 13 fields of 8 hexadecimal digits) | name, zero | pad to 4 | content | pad to 4
    ... one for each file, directories before what is in them, then one called TRAILER!!!

Linux Documentation/driver-api/early-userspace/buffer-format.rst. The same tree gives the same bytes: owners are root,
times are 0, inode numbers count up, names are sorted. Archives may follow one another, packed or not, so a tree can be
laid over another one by appending its archive.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm.linux.errors import FetchError

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
_PACKING: Final = 9


@dataclass(frozen=True, slots=True)
class Node:
    """One file: its mode with the file type, its content (a link's target), a device's numbers."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


Tree = dict[str, Node]
"""Nodes by path, without a leading slash."""


def directory() -> Node:
    """A directory that everybody may enter."""
    return Node(stat.S_IFDIR | 0o755)


def regular(content: bytes, mode: int = 0o644) -> Node:
    """A file."""
    return Node(stat.S_IFREG | mode, content)


def link(target: str) -> Node:
    """A symbolic link."""
    return Node(stat.S_IFLNK | 0o777, target.encode())


def character(major: int, minor: int, mode: int = 0o600) -> Node:
    """A character device."""
    return Node(stat.S_IFCHR | mode, device=(major, minor))


def from_directory(root: Path) -> Tree:
    """All files, directories and links below `root`; FetchError for what is none of these, or cannot be read."""
    tree: Tree = {}
    try:
        for path in sorted(root.rglob("*")):
            tree[path.relative_to(root).as_posix()] = _found(path)
    except OSError as error:
        raise FetchError(f"{error.filename or root}: {error.strerror}") from None
    return tree


def _found(path: Path) -> Node:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return link(str(path.readlink()))
    if stat.S_ISDIR(mode):
        return Node(stat.S_IFDIR | stat.S_IMODE(mode))
    if stat.S_ISREG(mode):
        return regular(path.read_bytes(), stat.S_IMODE(mode))
    raise FetchError(f"{path}: is neither a file nor a directory nor a link")


def archive(tree: Mapping[str, Node]) -> bytes:
    """The tree as an archive. Directories that are needed and not given are made."""
    whole = {**_parents(tree), **tree}
    parts = [_member(number, name, whole[name]) for number, name in enumerate(sorted(whole), 1)]
    return b"".join(parts) + _member(0, _TRAILER, Node(0))


def packed(tree: Mapping[str, Node]) -> bytes:
    """The archive, packed by gzip, with neither name nor time in it."""
    return gzip.compress(archive(tree), _PACKING, mtime=0)


def _parents(tree: Mapping[str, Node]) -> Tree:
    paths = [Path(name) for name in tree]
    return {parent.as_posix(): directory() for path in paths for parent in path.parents if parent.as_posix() != "."}


def _member(number: int, name: str, node: Node) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (number, node.mode, 0, 0, links, 0, len(node.content), 0, 0, *node.device, len(encoded), 0)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return _padded(header + encoded) + _padded(node.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
