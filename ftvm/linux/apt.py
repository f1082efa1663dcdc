# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages for another architecture through this machine's own apt, without touching this machine's state.

    DIR/apt.conf, DIR/sources   what apt-get is told: architecture riscv64, one suite, everything below in DIR
    DIR/state, DIR/lists        its private state: nothing counts as installed
    DIR/cache/archives          the packages, kept from one call to the next
    DIR/none                    always empty, see `with_dependencies`

The mirror is the one that this machine's apt sources name, so proxies and local mirrors are used as they are for this
machine; apt-get itself checks signatures and sums, and refuses what is not signed. No privileges are needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm.linux.errors import FetchError
from ftvm.say import Say

ARCHITECTURE: Final = "riscv64"
SUITE: Final = "trixie"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
POLL_S: Final = 0.2

_ELSEWHERE: Final = (
    "Fetch on a Debian machine (or in a Debian container) and copy the directory here, or put there yourself: a "
    "riscv64 Image as vmlinux, an initramfs as initramfs.cpio.gz; machine files name them by path."
)
_CONFIG: Final = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{path}/state";
Dir::State::Lists "{path}/lists";
Dir::State::status "{path}/status";
Dir::Cache "{path}/cache";
Dir::Cache::archives "{path}/cache/archives";
Dir::Etc::SourceList "{path}/mirror.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
"""
_URI: Final = re.compile(r"^'([^']+)' (\S+_\S+\.deb) (\d+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Package:
    """One package as the mirror offers it. `file` is its name in the cache, `size` in bytes."""

    name: str
    file: str
    size: int


class Apt:
    """apt-get with a state of its own in `path`."""

    def __init__(self, path: Path, say: Say, mirror: str | None = None) -> None:
        """FetchError, with what to do, on a machine that has no apt, or names no mirror of Debian and none is given."""
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(f"guests are fetched by apt, and this machine has no {tool}. {_ELSEWHERE}")
        if '"' in str(path) or "\n" in str(path):
            raise FetchError(f"{path}: apt takes no directory with such a name")
        self._path = path
        self._say = say
        self.mirror = mirror or find_mirror()
        self._prepare()

    def _prepare(self) -> None:
        for name in ("state", "lists/partial", "cache/archives/partial", "none/partial"):
            (self._path / name).mkdir(parents=True, exist_ok=True)
        (self._path / "status").write_bytes(b"")
        (self._path / "apt.conf").write_text(_CONFIG.format(path=self._path, architecture=ARCHITECTURE))
        lines = ["Types: deb", f"URIs: {self.mirror}", f"Suites: {SUITE}", "Components: main"]
        if KEYRING.exists():
            lines.append(f"Signed-By: {KEYRING}")
        (self._path / "mirror.sources").write_text("\n".join(lines) + "\n")

    # -- what the mirror has ------------------------------------------------------------------------------------

    def update(self) -> None:
        """Take in the mirror's index, and check its signature."""
        self._say.info(f"reading the package index of {SUITE} ({ARCHITECTURE}) from {self.mirror}")
        self._call("apt-get", "update")

    def dependency(self, package: str, pattern: str) -> str:
        """The first dependency of a package whose name matches."""
        listed = self._call("apt-cache", "depends", package)
        if found := re.search(rf"Depends: ({pattern})$", listed, re.MULTILINE):
            return found[1]
        raise FetchError(f"the package {package} of {SUITE} depends on nothing like {pattern}")

    def packages(self, names: Sequence[str]) -> list[Package]:
        """These packages alone."""
        return _offered(self._call("apt-get", "download", "--print-uris", *names)) if names else []

    def with_dependencies(self, names: Sequence[str]) -> list[Package]:
        """These packages (or apt's patterns) and all that they depend on."""
        if not names:
            return []
        # Of what lies in the cache apt-get prints nothing: it is given an empty one.
        cache = ("-o", f"Dir::Cache::archives={self._path}/none")
        return _offered(self._call("apt-get", "install", "--yes", "--print-uris", *cache, *names))

    # -- bringing them ------------------------------------------------------------------------------------------

    def download(self, packages: Sequence[Package]) -> list[Path]:
        """The files of packages, from the cache or from the mirror; files of others are removed from the cache."""
        archives = self._path / "cache" / "archives"
        wanted = {package.file for package in packages}
        for old in archives.glob("*.deb"):
            if old.name not in wanted:
                old.unlink()
        total = sum(package.size for package in packages)
        before = _size(archives)
        self._say.info(f"{len(packages)} packages, {total / 1e6:.1f} MB, of which {before / 1e6:.1f} MB are here")
        with self._say.progress("fetching packages", max(0, total - before)) as progress:
            process = self._start("apt-get", "download", *(package.name for package in packages), cwd=archives)
            while process.poll() is None:
                with_more = _size(archives)
                progress.advance(max(0, with_more - before))
                before = max(before, with_more)
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        self._check("apt-get download", process.returncode, _read(process))
        return [archives / package.file for package in packages]

    def unpack(self, files: Sequence[Path], root: Path) -> None:
        """Lay the packages' files down in `root`; none of their scripts is run."""
        with self._say.progress("unpacking packages", len(files)) as progress:
            for file in files:
                done = subprocess.run(["dpkg-deb", "-x", str(file), str(root)], capture_output=True, text=True)
                self._check(f"dpkg-deb -x {file.name}", done.returncode, done.stderr)
                progress.advance()

    def name_and_version(self, file: Path) -> str:
        """What a package's file says it is, with a tab between name and version."""
        done = subprocess.run(["dpkg-deb", "-W", str(file)], capture_output=True, text=True)
        self._check(f"dpkg-deb -W {file.name}", done.returncode, done.stderr)
        return done.stdout.strip()

    # -- calling it ---------------------------------------------------------------------------------------------

    def _start(self, *command: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        tool, *arguments = command
        return subprocess.Popen(
            [tool, "-qq", "-c", str(self._path / "apt.conf"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd or self._path,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )

    def _call(self, *command: str) -> str:
        process = self._start(*command)
        output, _ = process.communicate()
        self._check(" ".join(command[:2]), process.returncode, output)
        return output

    def _check(self, what: str, code: int, output: str) -> None:
        if code:
            raise FetchError(f"{what} failed (mirror {self.mirror}, {SUITE}):\n{output.strip()[-2000:]}")


def find_mirror() -> str:
    """The first mirror of Debian's packages that this machine's apt sources name."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    for line in listed.stdout.splitlines():
        uri, _, origin = line.partition(" ")
        if origin == "Debian Debian" or uri.rstrip("/").endswith("/debian"):
            return uri
    raise FetchError(f"this machine's apt sources name no mirror of Debian. {_ELSEWHERE}")


def _offered(listed: str) -> list[Package]:
    return [Package(file.split("_")[0], file, int(size)) for _, file, size in _URI.findall(listed)]


def _size(archives: Path) -> int:
    found = 0
    for path in (*archives.glob("*.deb"), *archives.glob("partial/*")):
        try:
            found += path.stat().st_size
        except FileNotFoundError:  # apt-get has just moved it
            continue
    return found


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout as pipe:
        return pipe.read()
