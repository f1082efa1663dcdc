# SPDX-License-Identifier: GPL-2.0-or-later
"""passt: the host's own ports lead to the guest, across a failover, and no passt is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import warnings
from pathlib import Path

import pytest

from ftvm.process import Process
from ftvm.state_dir import StateDir, read_json
from ftvm.status import read_status
from tests.commands.namespaces import _ip
from tests.commands.workshop import Workshop

from .lab import Lab, udp_echo
from .test_pairs import primary_of

MACHINE = """\
name = "echo"
[machine]
kernel = "netecho"
memory = "16 MiB"
[[network]]
backend = "passt"
forward = ["udp:10.0.2.2:5007:7"]
"""


@pytest.fixture(autouse=True)
def _installed() -> None:
    if shutil.which("passt") is None:
        warnings.warn("NOT TESTED, for want of passt", stacklevel=1)
        pytest.skip("passt is not installed")


def passt_of(state: StateDir) -> Process | None:
    """The passt of network 0, while it lives."""
    process = Process.load(read_json(state.path / "passt0.json"))
    return process if process is not None and process.alive else None


def route(lab: Lab) -> None:
    """passt wants an interface with a default route to take after."""
    _ip("-n", lab.names["client"], "route", "replace", "default", "via", "10.0.2.101")


def echo(lab: Lab, payload: bytes) -> bytes:
    return udp_echo(lab, payload, "10.0.2.2", 5007)


def test_a_pair_is_reached_through_passt_before_and_after_a_failover(lab: Lab, work: Workshop) -> None:
    """The same passt all the time; it ends with the pair."""
    route(lab)
    state = work.state("pair")
    pair = work.start("pair", work.machine(MACHINE), "--state-dir", state.path, prefix=lab.on("client"))
    work.until(lambda: read_status(state)["protected"], "the pair to be protected")
    assert echo(lab, b"before") == b"before"
    passt = passt_of(state)
    assert passt is not None
    side, pid = primary_of(state)
    os.kill(pid, signal.SIGKILL)
    work.until(lambda: primary_of(state)[0] not in ("", side), "the other side to be live", 8)
    assert echo(lab, b"after") == b"after"
    assert passt_of(state) == passt
    pair.process.send_signal(signal.SIGTERM)
    assert pair.wait() == 0, work.story()
    assert not passt.alive and not (state.path / "passt0.sock").exists()


def test_a_passt_that_dies_is_replaced_and_a_launcher_that_dies_is_succeeded(lab: Lab, work: Workshop) -> None:
    """The guest is reachable again through the next one; another launcher takes over the one that runs."""
    route(lab)
    state = work.state("pair")
    machine = work.machine(MACHINE)
    first = work.start("pair", machine, "--state-dir", state.path, prefix=lab.on("client"))
    work.until(lambda: read_status(state)["protected"], "the pair to be protected")
    passt = passt_of(state)
    assert passt is not None
    passt.signal(signal.SIGKILL)
    work.until(lambda: passt_of(state) not in (None, passt), "another passt")
    assert "passt has died; starting another" in first.stderr
    assert echo(lab, b"again") == b"again"
    second_passt = passt_of(state)
    first.kill()
    assert echo(lab, b"alone") == b"alone"
    second = work.start("pair", machine, "--state-dir", state.path, prefix=lab.on("client"))
    work.until(lambda: "adopting" in second.stderr, "the pair to be adopted")
    assert passt_of(state) == second_passt
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 0, work.story()
    assert passt_of(state) is None


def test_a_killed_run_leaves_no_passt(lab: Lab, work: Workshop) -> None:
    """It ends with its only connection."""
    route(lab)
    state = work.state("run")
    run = work.start("run", work.machine(MACHINE), "--state-dir", state.path, prefix=lab.on("client"))
    assert echo(lab, b"hello") == b"hello"
    passt = passt_of(state)
    assert passt is not None
    run.kill()
    work.until(lambda: not passt.alive, "passt to end")


def test_a_passt_of_the_users_own_is_used_by_its_path(lab: Lab, work: Workshop) -> None:
    """And left alone at the end."""
    route(lab)
    path = work.directory / "own.sock"
    command = [*lab.on("client"), "passt", "-f", "-e", "--runas", "0", "-s", str(path), "-a", "10.0.2.15", "-n", "24"]
    command += ["-g", "10.0.2.2", "-u", "10.0.2.2/5007:7", "-4"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as own:
        work.until(path.exists, "passt to listen")
        text = MACHINE.replace('"passt"\nforward = ["udp:10.0.2.2:5007:7"]', f'"passt:{path}"')
        run = work.start("run", work.machine(text), "--state-dir", work.state("own").path, prefix=lab.on("client"))
        assert echo(lab, b"hello") == b"hello"
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0 and own.poll() is None
        own.kill()


def test_what_keeps_passt_from_starting_is_told(lab: Lab, work: Workshop) -> None:
    """A port that is taken, and a passt that is not installed."""
    route(lab)

    def bind() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("10.0.2.2", 5007))
        return taken

    with lab.within("client", bind):
        failed = work.start("run", work.machine(MACHINE), "--state-dir", work.state("x").path, prefix=lab.on("client"))
        assert failed.wait() == 1 and "network[0]: passt did not start" in failed.stderr, failed.stderr
    bare = work.directory / "bin"
    bare.mkdir()
    Path(bare / "ip").symlink_to(str(shutil.which("ip")))
    missing = work.start(
        "pair", work.machine(MACHINE), "--state-dir", work.state("y").path, prefix=["env", f"PATH={bare}"]
    )
    assert missing.wait() == 1 and "needs the program passt (apt install passt)" in missing.stderr
