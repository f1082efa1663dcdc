# SPDX-License-Identifier: GPL-2.0-or-later
"""What a root file system is made of: unpacked packages, dpkg's database of them, an ext4 image, a guest's job."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ftvm.linux import newc
from ftvm.linux.deb import Deb, Owned, lay_down
from ftvm.linux.dpkg import write_database
from ftvm.linux.errors import FetchError
from ftvm.linux.ext4 import make_image
from ftvm.linux.job import Job
from tests.linux.images import checked, e2fsprogs
from tests.linux.stock import Stock

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed")

UUID = "0b4bb5b5-0c8a-4c57-8a43-5b9c4d9d1f00"
MADE = 1_700_000_000
CONTROL = """\
Package: {name}
Version: 1.0-1
Architecture: riscv64
Maintainer: Nobody <nobody@example.org>
{more}Description: a package
 and more of its description
"""


def package(directory: Path, name: str, more: str = "", **control: str) -> Path:
    """A package's file, with a program, a link and a conffile."""
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL.format(name=name, more=more))
    for member, content in control.items():
        (tree / "DEBIAN" / member).write_text(content)
        (tree / "DEBIAN" / member).chmod(0o755 if content.startswith("#!") else 0o644)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / f"usr/bin/{name}").write_text(f"#!/bin/sh\necho {name}\n")
    (tree / f"usr/bin/{name}").chmod(0o4755)
    (tree / f"usr/bin/{name}-link").symlink_to(name)
    (tree / "etc").mkdir()
    (tree / f"etc/{name}.conf").write_text("setting = 1\n")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, directory / f"{name}.deb"], check=True, capture_output=True
    )
    return directory / f"{name}.deb"


def unpacked(tmp_path: Path) -> tuple[Path, list[Deb]]:
    """Two packages laid down, with a database."""
    root = tmp_path / "root"
    root.mkdir()
    one = package(tmp_path, "one", "Multi-Arch: same\n", conffiles="/etc/one.conf\n", postinst="#!/bin/sh\nexit 0\n")
    two = package(tmp_path, "two", triggers="interest-noawait /usr/lib/two\ninterest two-changed\n# none\n")
    packages = [lay_down(one, root), lay_down(two, root)]
    write_database(root, packages)
    return root, packages


def dpkg(root: Path, *arguments: str) -> str:
    """This machine's own dpkg, told of the database."""
    command = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_package_is_laid_down_with_modes_times_and_owners(tmp_path: Path) -> None:
    root, (one, _) = unpacked(tmp_path)
    program = root / "usr/bin/one"
    assert program.read_text().endswith("echo one\n") and program.stat().st_mode & 0o7777 == 0o4755
    assert (root / "usr/bin/one-link").readlink() == Path("one")
    owned = one.files["/usr/bin/one"]
    assert (owned.mode, owned.uid, owned.gid) == (0o4755, 0, 0)
    assert owned.mtime == int(program.stat().st_mtime)
    assert one.value("Version") == "1.0-1" and one.value("Nothing") == "" and one.known_as == "one:riscv64"


def test_dpkg_takes_the_database_for_its_own(tmp_path: Path) -> None:
    root, _ = unpacked(tmp_path)
    listed = dpkg(root, "-W", "-f", "${binary:Package} ${Version} ${Status}\n")
    assert set(listed.splitlines()) == {
        "one:riscv64 1.0-1 install ok unpacked",
        "two:riscv64 1.0-1 install ok unpacked",
    }
    assert "/usr/bin/one-link" in dpkg(root, "-L", "one:riscv64").splitlines()
    assert dpkg(root, "-S", "/usr/bin/two") == "two:riscv64: /usr/bin/two\n"
    digest = subprocess.run(["md5sum", root / "etc/one.conf"], capture_output=True, text=True, check=True).stdout[:32]
    assert dpkg(root, "-W", "-f", "${Conffiles}", "one:riscv64").split() == ["/etc/one.conf", digest]
    assert Path(dpkg(root, "--control-path", "one:riscv64", "postinst").strip()).stat().st_mode & 0o111


def test_triggers_are_known(tmp_path: Path) -> None:
    root, _ = unpacked(tmp_path)
    assert (root / "var/lib/dpkg/triggers/File").read_text() == "/usr/lib/two two/noawait\n"
    assert (root / "var/lib/dpkg/triggers/two-changed").read_text() == "two\n"


def test_what_is_no_package_is_told(tmp_path: Path) -> None:
    file = tmp_path / "broken.deb"
    file.write_bytes(b"!<arch>\nnot really")
    with pytest.raises(FetchError, match=r"broken\.deb"):
        lay_down(file, tmp_path)


def image_of(directory: Path, owned: dict[str, Owned], size: int = 8 << 20) -> Path:
    """An image of a small tree that is made anew."""
    tree = directory / "tree"
    (tree / "var/mail").mkdir(parents=True)
    (tree / "var/a file").write_text("content\n")
    (tree / "var/hard").hardlink_to(tree / "var/a file")
    (tree / "var/soft").symlink_to("a file")
    image = directory / "image"
    make_image(image, size, tree, owned, UUID, MADE)
    return image


def test_the_same_directory_gives_the_same_image(tmp_path: Path) -> None:
    owned = {"/var/mail": Owned(0o2775, 0, 8, 1_600_000_000)}
    images = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images.append(image_of(tmp_path / name, owned))
        time.sleep(1.1)  # so that the clock of this machine shows
    assert images[0].read_bytes() == images[1].read_bytes()
    checked(images[0])
    said = subprocess.run(
        [e2fsprogs("debugfs"), "-R", "stat /var/mail", images[0]], capture_output=True, text=True
    ).stdout
    assert "Mode:  02775" in said and "Group:     8" in said and f"0x{1_600_000_000:x}" in said
    said = subprocess.run([e2fsprogs("debugfs"), "-R", 'cat "/var/hard"', images[0]], capture_output=True, text=True)
    assert said.stdout == "content\n"


def test_an_image_that_is_too_small_is_told(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(bytes(range(256)) * (40 << 10))
    with pytest.raises(FetchError, match="8 MiB may be too small"):
        make_image(tmp_path / "image", 8 << 20, tmp_path / "tree", {}, UUID, MADE)


def test_without_e2fsprogs_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ftvm.linux.ext4._SEARCH", ())
    with pytest.raises(FetchError, match="install e2fsprogs"):
        image_of(tmp_path, {})


def job(stock: Stock, directory: Path, script: str) -> tuple[bytes, list[str]]:
    """What a script in a guest left on a disk, and what it said."""
    directory.mkdir()
    disk, heard = directory / "disk", list[str]()
    disk.write_bytes(bytes(1 << 20))
    initrd = stock.with_files(directory / "initramfs", {"job": newc.regular(f"#!/bin/sh\n{script}".encode(), 0o755)})
    guest = Job(stock.kernel, initrd, "console=ttyS0 quiet panic=1 script=/job", 160 << 20, [disk], heard.append)
    try:
        guest.run(7)
    finally:
        guest.close()
    return disk.read_bytes(), heard


@pytest.mark.timeout(300)
def test_a_job_does_the_same_each_time(stock: Stock, tmp_path: Path) -> None:
    script = "dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync; sleep 100; date; cat /proc/uptime"
    first, second = (job(stock, tmp_path / name, script) for name in ("a", "b"))
    assert first == second
    assert first[0].strip(b"\0") and any(line.startswith("4+0 records out") for line in first[1])


@pytest.mark.timeout(300)
def test_a_job_that_panics_shows_what_it_said(stock: Stock, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"(?s)the guest (failed|has reset itself).*it said last.*about to die"):
        job(stock, tmp_path / "job", "echo about to die; sleep 1; echo c > /proc/sysrq-trigger; sleep 100")
