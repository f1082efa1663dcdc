# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm guest fetch` and `check`: what was fetched, and what is said where nothing can be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftvm.cli import main
from ftvm.linux import manifest, newc
from ftvm.linux.apt import SUITE, Apt
from ftvm.linux.errors import FetchError
from ftvm.linux.initramfs import initramfs
from ftvm.linux.manifest import FILES
from ftvm.say import Say
from tests.linux.stock import Stock

APT = ("apt-get", "apt-cache", "dpkg-deb")


def ftvm(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="ftvm")


def fetched(directory: Path) -> Path:
    """A directory that looks as after a fetch."""
    directory.mkdir()
    for name in FILES:
        (directory / name).write_bytes(name.encode())
    made = manifest.make(directory, ["package\t1.0"], {})
    (directory / manifest.NAME).write_text(made.text())
    return directory


def stand_in(directory: Path, script: str) -> None:
    """Programs of apt that do what the script says."""
    directory.mkdir()
    for name in APT:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def test_what_was_fetched_is_checked(stock: Stock) -> None:
    result = ftvm("guest", "check", stock.directory, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert set(found["files"]) >= set(FILES), "and a root file system, if one was made there"
    assert {"busybox-static", "u-boot-qemu", "e2fsprogs", "libc6"} <= set(found["packages"])
    assert any(name.startswith("linux-image-") for name in found["packages"])


def test_what_is_there_is_not_fetched_again(
    stock: Stock, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    result = ftvm("guest", "fetch", stock.directory, *stock.options)
    assert result.exit_code == 0, result.stderr
    assert "complete, nothing to fetch" in capfd.readouterr().err


def test_the_initramfs_is_the_same_when_it_is_made_again(stock: Stock, tmp_path: Path) -> None:
    (archive,) = (stock.directory / "apt/cache/archives").glob("e2fsprogs_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, tmp_path / "e2fsprogs"], check=True)
    tree = initramfs(stock.directory / "root", (), [tmp_path / "e2fsprogs"], None)
    assert newc.packed(tree) == stock.initramfs.read_bytes()


def test_the_initramfs_has_what_its_programs_need(stock: Stock) -> None:
    tree = initramfs(stock.directory / "root", ("raid1",), [], None)
    order = tree["etc/modules"].content.decode().split()
    assert order.index("md_mod") < order.index("raid1")
    assert all(f"usr/lib/modules/{name}.ko" in tree for name in order)
    assert {"init", "usr/bin/busybox", "dev/console", "proc", "sys"} <= set(tree)


def test_every_file_that_differs_is_told(tmp_path: Path) -> None:
    directory = fetched(tmp_path / "guests")
    assert ftvm("guest", "check", directory).exit_code == 0
    (directory / "vmlinux").write_bytes(b"vmlinuz")
    (directory / "u-boot.bin").unlink()
    result = ftvm("guest", "check", directory)
    assert result.exit_code == 1
    assert "vmlinux: is not what was fetched" in result.stderr
    assert "u-boot.bin: is missing" in result.stderr
    assert "initramfs" not in result.stderr


@pytest.mark.parametrize("content", [None, "", "busybox\t1\n", "\x00\xff"])
def test_a_directory_without_a_whole_list_is_refused(tmp_path: Path, content: str | None) -> None:
    directory = fetched(tmp_path / "guests")
    if content is None:
        (directory / manifest.NAME).unlink()
    else:
        (directory / manifest.NAME).write_text(content)
    result = ftvm("guest", "check", directory)
    assert result.exit_code == 1
    assert manifest.NAME in result.stderr


def test_without_apt_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = ftvm("guest", "fetch", tmp_path / "guests")
    assert result.exit_code == 1
    assert "this machine has no apt-get. Fetch on a Debian machine" in result.stderr


def test_without_a_mirror_in_the_sources_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", 'echo "http://mirror.invalid/ubuntu/ Ubuntu Ubuntu"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    result = ftvm("guest", "fetch", tmp_path / "guests")
    assert result.exit_code == 1
    assert "name no mirror of Debian. Fetch on a Debian machine" in result.stderr


def test_what_apt_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = 'indextargets*) echo "http://mirror.invalid/pub/debian/"'
    script = f'case "$*" in {mirror};; *) echo "E: not signed"; exit 100;; esac'
    stand_in(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    result = ftvm("guest", "fetch", tmp_path / "guests")
    assert result.exit_code == 1
    assert "apt-get update failed" in result.stderr and "E: not signed" in result.stderr
    assert not (tmp_path / "guests" / manifest.NAME).exists()


def test_what_is_in_the_cache_counts_among_the_dependencies(stock: Stock) -> None:
    """apt-get itself leaves out what it need not download."""
    found = Apt(stock.directory / "apt", Say("fetch")).with_dependencies(["e2fsprogs"])
    assert {"e2fsprogs", "libc6"} <= {package.name for package in found}
    assert all((stock.directory / "apt/cache/archives" / package.file).exists() for package in found)


def test_an_unknown_module_is_told(stock: Stock) -> None:
    with pytest.raises(FetchError, match="this kernel has no module warpdrive"):
        stock.modules().in_order(["warpdrive"])


def test_modules_come_after_what_they_need(stock: Stock) -> None:
    ordered = list(stock.modules().in_order(["raid1", "dm-crypt", "virtio-net"]))
    for needed, name in (("md_mod", "raid1"), ("dm_mod", "dm_crypt"), ("net_failover", "virtio_net")):
        assert ordered.index(needed) < ordered.index(name)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed")
def test_nothing_that_is_unsigned_is_taken(tmp_path: Path) -> None:
    """apt itself refuses a mirror that signs nothing."""
    release = tmp_path / "debian" / "dists" / SUITE
    release.mkdir(parents=True)
    (release / "Release").write_text(f"Codename: {SUITE}\nSuite: stable\nArchitectures: riscv64\nComponents: main\n")
    apt = Apt(tmp_path / "apt", Say("fetch"), f"file:{tmp_path}/debian")
    with pytest.raises(FetchError, match="not signed"):
        apt.update()
