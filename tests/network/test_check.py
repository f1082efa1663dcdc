# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a network is said before a side serves: which, where, and what to do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.config import MachineConfig, parse
from ftvm.config_error import ConfigError
from ftvm.world.network.check import check_networks
from ftvm.world.network.tap import exists, open_tap
from tests.commands.workshop import Workshop

from .lab import Lab
from .test_pairs import MACHINE


def config(*backends: str) -> MachineConfig:
    """A machine with these networks."""
    return parse({"name": "x", "network": [{"backend": backend} for backend in backends]}, "x")


def checked(directory: Path, *backends: str, joins: bool = False) -> list[str]:
    """The warnings about these networks."""
    warnings: list[str] = []
    check_networks(config(*backends), directory, warnings.append, joins)
    return warnings


def refusal(check: Callable[[], object]) -> str:
    """In which words a check ends."""
    with pytest.raises(ConfigError) as refused:
        check()
    return str(refused.value)


def test_what_can_be_had_is_not_mentioned(lab: Lab, tmp_path: Path) -> None:
    assert lab.within("a", lambda: checked(tmp_path, "tap:vm0", "none", "stream:127.0.0.1:5")) == []


def test_what_is_no_tap_device_is_refused(lab: Lab, tmp_path: Path) -> None:
    words = refusal(lambda: lab.within("a", lambda: checked(tmp_path, "none", "tap:uplink")))
    assert words.startswith("x: network[1].backend: uplink is not a TAP device with one queue (ip tuntap add")


def test_a_held_tap_device_is_refused_except_to_a_joiner(lab: Lab, tmp_path: Path) -> None:
    """Whose primary may be on this host."""
    fd = lab.within("a", lambda: open_tap("vm0"))
    try:
        words = refusal(lambda: lab.within("a", lambda: checked(tmp_path, "tap:vm0")))
        assert words == "x: network[0].backend: the TAP device vm0: another process holds it"
        (warning,) = lab.within("a", lambda: checked(tmp_path, "tap:vm0", joins=True))
        assert "another process holds it; it has to be free when this side goes live" in warning
    finally:
        os.close(fd)


def test_a_missing_tap_device_is_made_and_its_want_of_a_bridge_is_told(lab: Lab, work: Workshop) -> None:
    """By the command, which goes on."""
    machine = work.machine(MACHINE.replace("vm0", "lone0"))
    run = work.start("run", machine, "--state-dir", work.state("lone").path, prefix=lab.on("b"))
    work.until(lambda: "the TAP device lone0 is on no bridge and has no address" in run.stderr, "a warning")
    assert "ip link set lone0 master BRIDGE" in run.stderr and lab.within("b", lambda: exists("lone0"))
    work.until(lambda: (work.directory / "lone" / "a" / "status.json").exists(), "the machine to run")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0
    on_bridge = work.start(
        "run", work.machine(MACHINE), "--state-dir", work.state("vm0").path, prefix=lab.on("b"), name="vm0"
    )
    work.until(lambda: (work.directory / "vm0" / "a" / "status.json").exists(), "the machine to run")
    on_bridge.process.send_signal(signal.SIGTERM)
    assert on_bridge.wait() == 0 and "no bridge" not in on_bridge.stderr


def test_a_joiner_is_refused_before_it_calls_its_primary(lab: Lab, work: Workshop) -> None:
    """A host that could never go live is no backup."""
    machine = work.machine(MACHINE.replace("vm0", "uplink"))
    work.start("primary", work.machine(MACHINE, "good"), "--state-dir", work.state("x").path, prefix=lab.on("a"))
    work.until(lambda: (work.directory / "x" / "a" / "status.json").exists(), "a primary")
    joiner = work.start(
        "backup", machine, "--join", "127.0.0.1:7700", "--state-dir", work.directory / "x", prefix=lab.on("a")
    )
    assert joiner.wait() == 1
    assert "network[0].backend: uplink is not a TAP device" in joiner.stderr
    assert "joining in term" not in joiner.stderr


def test_a_socket_that_nobody_listens_at_is_told_and_waited_for(tmp_path: Path) -> None:
    for backend in ("passt:own.sock", "stream:unix:own.sock"):
        (warning,) = checked(tmp_path, backend)
        assert warning == f"x: network[0].backend: nobody listens at {tmp_path}/own.sock yet"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "own.sock"))
        assert checked(tmp_path, "stream:unix:own.sock") == []


def test_what_is_no_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(lambda: checked(tmp_path, "passt:file")) == f"x: network[0].backend: {tmp_path}/file is not a socket"
    words = refusal(lambda: checked(tmp_path, "stream:unix:file/below"))
    assert words == f"x: network[0].backend: {tmp_path}/file/below: Not a directory"
