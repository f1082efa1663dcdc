# SPDX-License-Identifier: GPL-2.0-or-later
"""A root file system of Debian: the packages that a user asks for, installed, in an image that ftvm's guests boot from.

    DIR/debian.ext4, debian.txt    the image; packages, versions, its sum, what was asked for (written last)
    DIR/debian/apt/                apt's private state, and the packages themselves for the next time
    DIR/debian/work/               while it is made

First stage, here: packages are laid down in a directory, with dpkg's database, and mke2fs makes an image of it. Second
stage, in a guest: the stock kernel on ftvm's own machine runs the packages' scripts (`second-stage`). So it takes
neither root nor another emulator nor user namespaces, and since that machine is deterministic, the same packages, asked
for in the same way, give the same image.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from ftvm.hardware import RTC_BASE_NS
from ftvm.linux import manifest, newc
from ftvm.linux.apt import SUITE, Apt
from ftvm.linux.deb import Deb, Owned, lay_down
from ftvm.linux.dpkg import write_database
from ftvm.linux.errors import FetchError
from ftvm.linux.ext4 import make_image, tools
from ftvm.linux.fetch import Wanted, fetch
from ftvm.linux.initramfs import initramfs
from ftvm.linux.job import Job
from ftvm.linux.manifest import ROOT, Manifest
from ftvm.say import Say

FORMAT: Final = 1  # raised when the same packages would give another image
SIZE: Final = 1 << 30
SIZE_MIN: Final = 256 << 20
PASSWORD: Final = "ftvm"
BASE: Final = (
    "?essential",
    "apt",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "login",
    "passwd",
    "procps",
    "systemd-sysv",
    "udev",
)
_DAY_S: Final = 86_400
MADE: Final = RTC_BASE_NS // 10**9 - _DAY_S  # a guest's clock starts later, whatever it is
_MEMORY: Final = 512 << 20
_CMDLINE: Final = "console=ttyS0 quiet panic=1 init_on_alloc=0 script=/second-stage"
_DONE: Final = "ftvm: second stage done"
_CONFIGURED: Final = "Setting up "


@dataclass(frozen=True, slots=True)
class WantedRoot:
    """What the root file system is to be."""

    packages: Sequence[str] = ()
    size: int = SIZE
    password: str = PASSWORD
    hostname: str = "debian"
    overlay: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the manifest; an overlay counts by its content, the password is not to be read from it."""
        overlay = None if self.overlay is None else newc.archive(newc.from_directory(self.overlay))
        return {
            "format": FORMAT,
            "own": hashlib.sha256(_script()).hexdigest(),
            "suite": SUITE,
            "packages": sorted(self.packages),
            "size": self.size,
            "hostname": self.hostname,
            "password": hashlib.sha256(self.password.encode()).hexdigest(),
            "overlay": None if overlay is None else hashlib.sha256(overlay).hexdigest(),
        }


def make_root(directory: Path, wanted: WantedRoot, say: Say, refresh: bool = False) -> Manifest:
    """Make it, unless it is there already; with `refresh`, again when the mirror has newer versions.

    Kernel and initramfs are fetched to the same directory if they are not there. FetchError in words, whatever is in
    the way.
    """
    directory = directory.absolute()
    if wanted.size < SIZE_MIN or wanted.size % 4096:
        raise FetchError(f"a root file system has at least {SIZE_MIN >> 20} MiB, and whole blocks of 4 KiB")
    try:
        asked = wanted.as_dict()
        found = _complete(directory, asked)
        if found is not None and not refresh:
            say.info(f"{directory / ROOT.files[0]}: is there, nothing to make; --refresh looks for newer versions")
            return found
        return _make(directory, wanted, found, say)
    except OSError as error:
        raise FetchError(f"{error.filename or directory}: {error.strerror}") from None


def _script() -> bytes:
    return resources.files("ftvm.linux").joinpath("second-stage").read_bytes()


def _complete(directory: Path, asked: dict[str, Any]) -> Manifest | None:
    try:
        found = manifest.check(directory, ROOT)
    except FetchError:
        return None
    return found if found.wanted == asked else None


def _make(directory: Path, wanted: WantedRoot, found: Manifest | None, say: Say) -> Manifest:
    """`found` is what is there, if it is what was asked for."""
    tools()  # what will be needed in the end
    apt = Apt(directory / "debian/apt", say)
    if not (directory / manifest.NAME).exists():
        fetch(directory, Wanted(), say)
    manifest.check(directory)
    apt.update()
    files = apt.download(apt.with_dependencies((*BASE, *wanted.packages)))
    versions = sorted(apt.name_and_version(file) for file in files)
    if found is not None and list(found.packages) == versions:
        say.info(f"{directory / ROOT.files[0]}: has the newest versions already")
        return found
    (directory / ROOT.name).unlink(missing_ok=True)
    work = directory / "debian/work"
    shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True)
    image = work / ROOT.files[0]
    asked = wanted.as_dict()
    identity = hashlib.sha256(repr((sorted(asked.items()), versions, apt.mirror)).encode()).digest()
    packages = _first_stage(work / "tree", image, wanted, apt, files, identity, say)
    _second_stage(directory, work, image, wanted, packages, identity, say)
    image.replace(directory / ROOT.files[0])
    shutil.rmtree(work)
    made = manifest.make(directory, versions, asked, ROOT)
    (directory / ROOT.name).write_text(made.text())
    say.info(f"{directory / ROOT.files[0]}: complete, {len(versions)} packages")
    return made


def _first_stage(
    tree: Path, image: Path, wanted: WantedRoot, apt: Apt, files: Sequence[Path], identity: bytes, say: Say
) -> list[Deb]:
    """Everything but what packages' scripts do, in the image."""
    packages: list[Deb] = []
    with say.progress("unpacking packages", len(files)) as progress:
        # Links of which others go through come with the first one.
        for file in sorted(files, key=lambda file: (not file.name.startswith("base-files_"), file.name)):
            packages.append(lay_down(file, tree))
            progress.advance()
    owned: dict[str, Owned] = {}
    for package in packages:
        for name, owner in package.files.items():
            owned.setdefault(name, owner)
    write_database(tree, packages)
    sources = f"Types: deb\nURIs: {apt.mirror}\nSuites: {SUITE}\nComponents: main\n"
    signed = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    (tree / "etc/apt/sources.list.d/debian.sources").write_text(sources + signed)
    if wanted.overlay is not None:
        shutil.copytree(wanted.overlay, tree, symlinks=True, dirs_exist_ok=True)
    say.info("making the file system")
    make_image(image, wanted.size, tree, owned, str(UUID(bytes=identity[:16], version=4)), MADE)
    return packages


def _second_stage(
    directory: Path, work: Path, image: Path, wanted: WantedRoot, packages: Sequence[Deb], identity: bytes, say: Say
) -> None:
    """The packages' scripts, run by a guest."""
    settings = {"clock": str(MADE), "name": wanted.hostname, "password": wanted.password}
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    first = ("base-passwd", "base-files")
    scripts = [package for package in packages if "preinst" in package.control]
    scripts.sort(key=lambda package: (first.index(package.name) if package.name in first else len(first), package.name))
    tree = initramfs(directory / "root", (), [], None) | {
        "settings": newc.regular(text.encode(), 0o600),
        "preinst": newc.regular("".join(f"{p.known_as} {p.value('Version')}\n" for p in scripts).encode()),
        "second-stage": newc.regular(_script(), 0o755),
    }
    initrd = work / "initramfs.cpio.gz"
    initrd.write_bytes(newc.packed(tree))
    say.info("a guest configures the packages")
    done = False
    with say.progress("configuring packages", len(packages)) as progress:

        def heard(line: str) -> None:
            nonlocal done
            done = done or line == _DONE
            if line.startswith(_CONFIGURED):
                progress.advance()

        job = Job(directory / "vmlinux", initrd, _CMDLINE, _MEMORY, [image], heard)
        try:
            job.run(int.from_bytes(identity, "big"))
        finally:
            job.close()
    if not done:
        raise job.failed("the packages could not be configured; the guest said last:")
