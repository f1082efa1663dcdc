# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests on a real network, alone and in pairs: what a client notices when the primary is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ftvm.config_keys import write_keys
from ftvm.state_dir import StateDir, read_json
from ftvm.status import read_status
from tests.commands.workshop import Running, Workshop, role

from .lab import ADDRESS, ETH_P_ARP, ETH_P_RARP, Ear, Lab, Ping, udp_echo

MACHINE = """\
name = "echo"
[machine]
kernel = "netecho"
memory = "16 MiB"
[[network]]
backend = "tap:vm0"
"""
LOST_MAX = 5  # of pings at 10 a second, in one failover on a busy machine
GUEST_MAC = bytes.fromhex("525400123456")
GUEST_IP = bytes((10, 0, 2, 15))


def networks(state: StateDir, side: str) -> dict[str, object]:
    """What a side says of its network."""
    found: dict[str, object] = read_json(state.status(side))["networks"][0]
    return found


def is_announcement(frame: bytes) -> bool:
    """Broadcast in the guest's name: gratuitous ARP, or RARP's request."""
    return frame[:12] == b"\xff" * 6 + GUEST_MAC and (frame[12:14] == b"\x80\x35" or frame[28:32] == frame[38:42])


def primary_of(state: StateDir) -> tuple[str, int]:
    """(side, pid) of the primary; an empty name when there is none just now."""
    for side, fields in read_status(state)["sides"].items():
        if fields["role"] == "primary":
            return side, fields["pid"]
    return "", 0


def test_a_guest_alone_answers_on_the_bridge(lab: Lab, work: Workshop) -> None:
    """Ping and UDP from another host; its TAP device is free again when it has been stopped."""
    state = work.state("alone")
    run = work.start("run", work.machine(MACHINE), "--state-dir", state.path, prefix=lab.on("a"))
    assert udp_echo(lab, b"hello") == b"hello"
    with Ping(lab) as ping:
        work.until(lambda: len(ping.answered) >= 10, "ten answers")
    assert len(ping.lost) <= 1
    assert udp_echo(lab, bytes(1472)) == bytes(1472)
    work.until(lambda: networks(state, "a")["attached"] is True, "the status to tell")
    assert networks(state, "a")["backend"] == "tap:vm0"
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0
    assert lab.until_carrier(False)


def test_a_client_of_a_pair_misses_a_few_pings_when_the_primary_is_killed(lab: Lab, work: Workshop) -> None:
    """Twice, so that both sides have been live; the guest is announced each time, and only one side has the TAP."""
    state = work.state("pair")
    pair = work.start("pair", work.machine(MACHINE), "--state-dir", state.path, prefix=lab.on("a"))
    work.until(lambda: read_status(state)["protected"], "the pair to be protected")
    assert udp_echo(lab, b"before") == b"before"
    ears = [Ear(lab, ETH_P_ARP), Ear(lab, ETH_P_RARP)]
    with Ping(lab) as ping:
        for failover in range(2):
            if failover == 0:  # the backup sees the guest claim its address
                lab.forget_neighbours()
            answers = len(ping.answered)
            work.until(lambda before=answers: len(ping.answered) > before + 5, "answers")
            side, pid = primary_of(state)
            os.kill(pid, signal.SIGKILL)
            for ear in ears:
                ear.heard()  # what the dead side may have said when it went live
            work.until(lambda old=side: primary_of(state)[0] not in ("", old), "the other side to be live", 8)
            answers = len(ping.answered)
            work.until(lambda before=answers: len(ping.answered) > before + 5, "answers after the failover")
            told = [frame for ear in ears for frame in ear.heard() if is_announcement(frame)]
            assert told, "the guest was not announced"
            assert failover or all(frame[28:42] == GUEST_IP + bytes(6) + GUEST_IP for frame in told)
            work.until(lambda: read_status(state)["protected"], "the pair to be protected again")
            assert udp_echo(lab, b"after") == b"after"
    for ear in ears:
        ear.close()
    print(f"lost {len(ping.lost)} of {len(ping.sent)} pings, silence at most {ping.silence_s * 1e3:.0f} ms")
    assert len(ping.lost) <= 2 * LOST_MAX, work.story()
    backup = "a" if primary_of(state)[0] == "b" else "b"
    assert networks(state, backup)["attached"] is False
    pair.process.send_signal(signal.SIGTERM)
    assert pair.wait() == 0 and "another process holds it" not in pair.stderr


def test_a_guest_moves_to_another_host_and_the_switch_is_told(lab: Lab, work: Workshop) -> None:
    """Two hosts, each with a TAP device on its bridge; the switch learns the guest's new port from the announcement."""
    keys = work.directory / "echo.keys"
    write_keys(keys)
    states: dict[str, StateDir] = {}
    running: dict[str, Running] = {}
    for host in "ab":
        text = MACHINE + (
            f'[pair]\nlisten = "{ADDRESS[host]}:7700"\narbiter = "file:{work.directory}/arbiter"\nkeys = "{keys}"\n'
            "timeout_ms = 400\n"
        )
        states[host] = work.state(f"host-{host}")
        command = ["primary"] if host == "a" else ["backup", "--join", f"{ADDRESS['a']}:7700"]
        machine = work.machine(text, f"host-{host}")
        running[host] = work.start(
            *command[:1], machine, *command[1:], "--member", host, "--state-dir", states[host].path,
            name=f"host-{host}", prefix=lab.on(host),
        )  # fmt: skip
    work.until(lambda: role(states["b"], "b") == "backup", "the backup to be in sync")
    assert udp_echo(lab, b"before") == b"before"
    assert lab.until_carrier(False, "b")
    with Ping(lab) as ping:
        work.until(lambda: len(ping.answered) > 10, "answers")
        running["a"].kill()
        killed = time.monotonic()
        work.until(lambda: role(states["b"], "b") == "primary", "host b to be live")
        work.until(lambda: max(ping.answered.values()) > killed + 0.5, "answers from host b")
        time.sleep(0.5)
    print(f"lost {len(ping.lost)} of {len(ping.sent)} pings, silence at most {ping.silence_s * 1e3:.0f} ms")
    assert len(ping.lost) <= 3 * LOST_MAX, work.story()
    assert udp_echo(lab, b"after") == b"after"


def test_a_tap_device_that_cannot_be_had_is_refused_before_anything_starts(lab: Lab, work: Workshop) -> None:
    """In words, by each command that would need it."""
    machine = work.machine(MACHINE.replace("vm0", "uplink"))
    for command in ("run", "pair", "primary"):
        failed = work.start(command, machine, "--state-dir", work.state(command).path, prefix=lab.on("a"))
        assert failed.wait() == 1
        assert "echo: network[0].backend: uplink is not a TAP device" in failed.stderr
        assert not Path(work.directory / command / "console.log").exists()
