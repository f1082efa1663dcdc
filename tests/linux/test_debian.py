# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian from a disk: it boots to a login without complaints, and outlives its hosts.

What takes many minutes, its reboot and its life in a pair, runs only where FTVM_LONG is set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli import main
from ftvm.linux.manifest import ROOT
from ftvm.machine import EpochEnd
from ftvm.testing import MakePair
from tests.linux.debian import CMDLINE, PATIENT, WANTED, BenchSession, SocketSession, bench_with
from tests.linux.images import checked
from tests.linux.stock import Stock
from tests.linux.test_pair import ftvm, until_end

pytestmark = pytest.mark.timeout(1800)

PAIR = """\
name = "debian"

[machine]
memory = "256 MiB"
kernel = "{stock.kernel}"
initrd = "{stock.initramfs}"
cmdline = "{cmdline}"

[[disk]]
image = "{image}"

[console]
backend = "unix:console.sock"

[pair]
timeout_ms = 2000
"""
FILES = 8
LONG = bool(os.environ.get("FTVM_LONG"))


def test_it_boots_to_a_login_and_switches_off(stock: Stock, debian: Path, tmp_path: Path) -> None:
    linux = bench_with(stock, debian)
    session = BenchSession(linux)
    session.log_in()
    assert session.run(
        "cat /proc/1/comm; systemctl is-system-running --wait; systemctl list-units --failed --quiet"
    ) == ("systemd\nrunning")
    assert session.run("dmesg -l emerg,alert,crit,err,warn") == ""
    assert "cut here" not in session.run("dmesg")
    assert session.run("dpkg --audit; dpkg --verify systemd apt libc6") == ""
    assert int(session.run("apt list --installed 2>/dev/null | wc -l")) > 80
    assert session.run("findmnt -no SOURCE,FSTYPE /; hostname") == f"/dev/vda ext4\n{WANTED.hostname}"
    session.run("seq 100000 > /srv/kept; dd if=/srv/kept of=/srv/copy conv=fsync")
    if LONG:
        session.type("reboot\n")
        session.log_in()
        assert EpochEnd.RESET in [result.reason for result in linux.results]
        session.run("cmp /srv/kept /srv/copy; seq 100000 | cmp - /srv/kept")
    session.type("poweroff\n")
    assert linux.end(epochs=40_000) == EpochEnd.POWEROFF
    after = tmp_path / "after.ext4"
    with after.open("wb") as file:
        file.truncate(debian.stat().st_size)
        for chunk in linux.disks[0].data_chunks():
            file.seek(chunk << 16)
            file.write(linux.disks[0].read_chunk(chunk))
    checked(after)
    linux.machine.close()


@pytest.mark.skipif(not LONG, reason="boots Debian twice and replays it, ten minutes: set FTVM_LONG=1 to run it")
def test_a_session_goes_on(ftvm_pair: MakePair, stock: Stock, debian: Path, tmp_path: Path) -> None:
    """Primaries die while Debian boots, and while a file is written after the login; the recording replays it all."""
    log, after = tmp_path / "debian.log", tmp_path / "after.ext4"
    machine = PAIR.format(stock=stock, image=debian, cmdline=f"{CMDLINE} {PATIENT}")
    pair = ftvm_pair(machine, "--record", str(log), wait=False)
    pair.wait_protected(300)
    session = SocketSession(pair.state.path / "console.sock")
    session.until("systemd[1]: ")
    pair.wait_protected(300)
    pair.kill_primary()
    session.log_in()
    pair.wait_protected(300)
    write = "dd if=/dev/urandom of=/srv/$n bs=64k count=16 conv=fsync 2>/dev/null; echo wrote $n"
    mark = session.begin(f"for n in $(seq {FILES}); do {write}; md5sum /srv/$n >> /srv/sums; done")
    session.until("wrote 2\n")
    pair.kill_primary()
    assert session.end(mark).endswith(f"wrote {FILES}")
    session.run("sync; echo 3 > /proc/sys/vm/drop_caches")
    assert session.run("md5sum -c /srv/sums | grep -c OK") == str(FILES)
    assert session.run("journalctl --list-boots --quiet | wc -l") == "1", (
        "the guest has booted once: it noticed nothing"
    )
    session.type("poweroff\n")
    until_end(pair, 600)
    session.close()
    assert "divergence" not in pair.log().lower()
    exported = ftvm("disk", "export", "--state-dir", pair.state.path, after, seconds=600)
    assert exported.returncode == 0, exported.stderr
    checked(after)
    replayed = ftvm("replay", log, "--json", seconds=1200)
    assert replayed.returncode == 0, replayed.stderr
    report = json.loads(replayed.stdout)
    assert report["verified"] and report["end"] == "poweroff" and report["divergence"] is None


def test_what_was_made_is_told_and_not_made_again(stock: Stock, debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    command = ["guest", "root", str(stock.directory), "--size", f"{WANTED.size >> 20} MiB", "--json"]
    made = CliRunner().invoke(main, command, prog_name="ftvm")
    assert made.exit_code == 0, made.stderr
    compared = CliRunner().invoke(main, ["guest", "check", str(stock.directory), "--json"], prog_name="ftvm")
    assert compared.exit_code == 0, compared.stderr
    sums = json.loads(made.stdout)["files"]
    assert set(sums) == set(ROOT.files) and sums.items() <= json.loads(compared.stdout)["files"].items()
    assert {"systemd", "apt", "e2fsprogs", "udev"} <= set(json.loads(made.stdout)["packages"])


def test_a_file_system_that_is_too_small_is_refused(stock: Stock) -> None:
    made = CliRunner().invoke(main, ["guest", "root", str(stock.directory), "--size", "1 MiB"], prog_name="ftvm")
    assert made.exit_code == 1 and "at least 256 MiB" in made.stderr
    made = CliRunner().invoke(main, ["guest", "root", str(stock.directory), "--size", "big"], prog_name="ftvm")
    assert made.exit_code == 2 and '"big" is not a size' in made.stderr
