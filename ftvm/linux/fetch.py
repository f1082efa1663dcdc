# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock guests into a directory: kernel, initramfs and U-Boot of Debian, unmodified, for machine files to name.

    DIR/vmlinux, initramfs.cpio.gz, u-boot.bin    what machine files name
    DIR/versions.txt                              packages, versions, sums; written last
    DIR/root/                                     the unpacked packages: further modules, programs and libraries
    DIR/apt/                                      apt's private state, and the packages themselves for the next time

Asking again for what is there costs no network. A call that was interrupted leaves no `versions.txt`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.linux import manifest, newc
from ftvm.linux.apt import SUITE, Apt, Package
from ftvm.linux.errors import FetchError
from ftvm.linux.initramfs import initramfs, own_digest
from ftvm.linux.manifest import Manifest
from ftvm.say import Say

FORMAT: Final = 2  # raised when the same packages would give another initramfs
_KERNEL: Final = "linux-image-riscv64"
_KERNEL_NAME: Final = r"linux-image-[0-9]\S*-riscv64"
_BASE: Final = ("busybox-static", "u-boot-qemu")
_IN_ROOT: Final = {"u-boot.bin": "usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be in the directory beyond kernel, busybox and U-Boot."""

    packages: Sequence[str] = ()
    modules: Sequence[str] = ()
    overlay: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the manifest; an overlay counts by its content."""
        overlay = None if self.overlay is None else newc.archive(newc.from_directory(self.overlay))
        return {
            "format": FORMAT,
            "own": own_digest(),
            "suite": SUITE,
            "packages": sorted(self.packages),
            "modules": sorted(self.modules),
            "overlay": None if overlay is None else hashlib.sha256(overlay).hexdigest(),
        }

    @property
    def key(self) -> str:
        """A short name for all of this, for who keeps several directories."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def fetch(directory: Path, wanted: Wanted, say: Say, refresh: bool = False) -> Manifest:
    """Bring it all, unless it is there already; with `refresh`, the mirror is asked for newer versions.

    FetchError in words, whatever is in the way.
    """
    directory = directory.absolute()
    asked = wanted.as_dict()
    if not refresh and (found := _complete(directory, asked)) is not None:
        say.info(f"{directory}: complete, nothing to fetch; --refresh looks for newer versions")
        return found
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _fetch(directory, wanted, asked, say)
    except OSError as error:
        raise FetchError(f"{error.filename or directory}: {error.strerror}") from None


def _complete(directory: Path, asked: dict[str, Any]) -> Manifest | None:
    try:
        found = manifest.check(directory)
    except FetchError:
        return None
    return found if found.wanted == asked else None


def _fetch(directory: Path, wanted: Wanted, asked: dict[str, Any], say: Say) -> Manifest:
    apt = Apt(directory / "apt", say)
    apt.update()
    base = apt.packages((apt.dependency(_KERNEL, _KERNEL_NAME), *_BASE))
    extra = apt.with_dependencies(wanted.packages)
    files = apt.download(list(dict.fromkeys([*base, *extra])))
    (directory / manifest.NAME).unlink(missing_ok=True)
    root = _fresh(directory / "root")
    apt.unpack(files, root)
    named = [_unpack_alone(apt, package, directory) for package in extra if package.name in wanted.packages]
    say.info("making the initramfs")
    tree = initramfs(root, wanted.modules, named, wanted.overlay)
    _put(directory / "initramfs.cpio.gz", newc.packed(tree))
    (kernel,) = root.glob("boot/vmlinu*")
    _put(directory / "vmlinux", kernel.read_bytes())
    for name, inside in _IN_ROOT.items():
        _put(directory / name, (root / inside).read_bytes())
    shutil.rmtree(directory / "alone", ignore_errors=True)
    made = manifest.make(directory, [apt.name_and_version(file) for file in files], asked)
    _put(directory / manifest.NAME, made.text().encode())
    say.info(f"{directory}: complete")
    return made


def _unpack_alone(apt: Apt, package: Package, directory: Path) -> Path:
    """One package in a directory of its own, to tell its files from those of others."""
    alone = _fresh(directory / "alone" / package.name)
    apt.unpack([directory / "apt/cache/archives" / package.file], alone)
    return alone


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
