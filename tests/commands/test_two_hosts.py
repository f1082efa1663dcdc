# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm primary` and `ftvm backup` on two hosts that share nothing but the arbiter's directory.

The hosts are network namespaces, the channel between them is authenticated, and there is no launcher that fences: what
keeps a side from being live beside the other one is the arbiter alone. A client writes all the time, and moves to the
other host's address when one does not answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ftvm.config_keys import write_keys
from ftvm.demo.nbd_wire import Command, NbdError, Request
from ftvm.replaying import run_replay
from ftvm.state_dir import StateDir
from ftvm.status import read_status

from .namespaces import CHANNEL, SERVICE, Hosts
from .nbd import BLOCK, Connection, Writer
from .workshop import Running, Workshop, role

MACHINE = """\
name = "far"
[machine]
memory = "16 MiB"
[[disk]]
image = "disk0.img"
size = "1 MiB"
[service.block]
listen = ["{service}"]
[pair]
listen = "{channel}"
arbiter = "file:{shared}"
keys = "far.keys"
timeout_ms = 600
"""
PAUSE_S = 1.0  # longer than the timeout


class Far:
    """A pair on two hosts."""

    def __init__(self, work: Workshop, hosts: Hosts) -> None:
        self.work, self.hosts = work, hosts
        self.states: dict[str, StateDir] = {host: work.state(f"host-{host}") for host in "ab"}
        self.running: dict[str, Running] = {}
        write_keys(work.directory / "far.keys")
        for host in "ab":
            text = MACHINE.format(
                service=SERVICE[host], channel=CHANNEL[host], shared=work.directory / "shared" / "arbiter"
            )
            work.machine(text, f"host-{host}")

    def start(self, host: str, command: str, *options: str) -> Running:
        """`ftvm primary` or `ftvm backup` on a host."""
        self.running[host] = self.work.start(
            command,
            self.work.directory / f"host-{host}.toml",
            "--member",
            host,
            "--state-dir",
            self.states[host].path,
            *options,
            name=f"{command}-{host}-{len(self.work.running)}",
            prefix=self.hosts.on(host),
        )
        return self.running[host]

    def join(self, host: str, other: str) -> Running:
        """A backup on `host`; returns once both hosts' status says that the pair is protected."""
        backup = self.start(host, "backup", "--join", CHANNEL[other])
        self.work.until(lambda: self.protected(other), f"host {other} to be protected by host {host}")
        self.work.until(lambda: role(self.states[host], host) == "backup", f"host {host} to be the backup")
        return backup

    def protected(self, host: str) -> bool:
        """Whether the primary on `host` has a backup in sync."""
        return bool(read_status(self.states[host])["protected"])

    def until_live(self, host: str) -> None:
        """Wait until the side on `host` is live and serves clients."""
        self.work.until(
            lambda: read_status(self.states[host])["services"] == [SERVICE[host]], f"host {host} to go live", 8
        )

    def client(self) -> Writer:
        """A client that knows both hosts."""
        return Writer(self.hosts.connect, list(SERVICE.values()))

    def goes_on(self, writer: Writer, host: str, writes: int = 20) -> None:
        """The client's writes are acknowledged by `host`."""
        goal = writer.acknowledged + writes
        self.work.until(
            lambda: writer.acknowledged >= goal and writer.served_by == SERVICE[host],
            f"{writes} writes at host {host} (trouble: {writer.trouble})",
            8,
        )

    def loses(self, host: str) -> None:
        """The side on `host` ends by itself, because the other one has the term."""
        loser, other = self.running[host], "b" if host == "a" else "a"
        assert loser.wait(8) == 1, loser.stderr
        assert "this side is fenced" in loser.stderr and f"was granted to member {other}" in loser.stderr
        assert role(self.states[host], host) == "stopped"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two hosts and a client."""
    built = Hosts()
    try:
        built.build()
        yield built
    finally:
        built.destroy()


@pytest.fixture
def far(work: Workshop, hosts: Hosts) -> Far:
    """A protected pair: the primary on host a, the backup on host b."""
    pair = Far(work, hosts)
    pair.start("a", "primary", "--record", str(work.directory / "far.log"))
    pair.join("b", "a")
    return pair


def check_nothing_lost(writer: Writer) -> None:
    """What was acknowledged last is there, or a write behind it whose answer was lost."""
    found = writer.read()
    assert writer.acknowledged <= found <= writer.acknowledged + 1, f"{found}, acknowledged {writer.acknowledged}"
    assert writer.acknowledged > 40


def test_clients_go_on_at_the_other_host_when_one_dies_and_back_again(far: Far) -> None:
    """Each host is killed once; the one that died joins again. What the first of them recorded until then replays."""
    assert role(far.states["a"], "a") == "primary"
    assert read_status(far.states["b"])["primary"] is None
    assert "no primary on this host" in far.work.call("status", "--state-dir", far.states["b"].path).stdout
    with far.client() as writer:
        far.goes_on(writer, "a")
        far.running["a"].process.kill()
        far.until_live("b")
        far.goes_on(writer, "b")
        replayed = run_replay(far.work.directory / "far.log")
        assert replayed.sound and replayed.entries > 20 and not replayed.closed
        refused = far.start("a", "primary")
        assert refused.wait() == 1 and "side b may have been live in term 2" in refused.stderr
        far.join("a", "b")
        far.running["b"].process.kill()
        far.until_live("a")
        far.goes_on(writer, "a")
    check_nothing_lost(writer)
    assert read_status(far.states["a"])["term"] == 3
    ended = far.work.call("stop", "--state-dir", far.states["a"].path)
    assert ended.returncode == 0 and far.running["a"].wait() == 0


def test_a_primary_that_was_held_longer_than_the_timeout_stops_when_it_wakes(far: Far) -> None:
    """It is not live for a moment: a write that lay in its socket meanwhile is never answered."""
    with far.client() as writer:
        far.goes_on(writer, "a")
        held = Connection(far.hosts.connect(SERVICE["a"], 8.0))
        held.ask(Request(Command.WRITE, BLOCK, data=b"1" * BLOCK))
        far.running["a"].process.send_signal(signal.SIGSTOP)
        held.send(Request(Command.WRITE, BLOCK, data=b"2" * BLOCK))
        far.until_live("b")
        far.goes_on(writer, "b")
        far.running["a"].process.send_signal(signal.SIGCONT)
        with pytest.raises((OSError, NbdError)):
            held.answer()
        far.loses("a")
        far.goes_on(writer, "b")
    check_nothing_lost(writer)
    after = Connection(far.hosts.connect(SERVICE["b"]))
    assert after.ask(Request(Command.READ, BLOCK, BLOCK)) == b"1" * BLOCK


def test_a_backup_that_was_held_longer_than_the_timeout_stops_when_it_wakes(far: Far) -> None:
    """The primary has gone on alone in the next term, and takes another backup; that one is stopped on its host."""
    with far.client() as writer:
        far.goes_on(writer, "a")
        far.running["b"].process.send_signal(signal.SIGSTOP)
        far.work.until(lambda: read_status(far.states["a"])["term"] == 2, "the primary to go on alone")
        far.goes_on(writer, "a")
        far.running["b"].process.send_signal(signal.SIGCONT)
        far.loses("b")
        far.join("b", "a")
        far.goes_on(writer, "a")
        stopped = far.work.call("stop", "--state-dir", far.states["b"].path)
        assert stopped.returncode == 0 == far.running["b"].wait(), stopped.stderr
        far.goes_on(writer, "a")
    check_nothing_lost(writer)


def test_a_cut_between_the_hosts_leaves_exactly_one_of_them_live(far: Far) -> None:
    """Both live and see only silence; the arbiter says who goes on, and the client finds it."""
    with far.client() as writer:
        far.goes_on(writer, "a")
        far.hosts.cut(apart=True)
        try:
            far.work.until(lambda: any(far.running[host].process.poll() is not None for host in "ab"), "a side to stop")
            loser = "a" if far.running["a"].process.poll() is not None else "b"
            survivor = "b" if loser == "a" else "a"
            far.loses(loser)
            far.until_live(survivor)
            far.goes_on(writer, survivor)
            time.sleep(PAUSE_S)
            assert far.running[survivor].process.poll() is None
        finally:
            far.hosts.cut(apart=False)
        far.join(loser, survivor)
        far.goes_on(writer, survivor)
    check_nothing_lost(writer)


def test_what_cannot_be_safe_is_refused_before_anything_starts(work: Workshop) -> None:
    """An address that other hosts reach, without keys; a backup without the arbiter's directory only waits."""
    machine = work.machine('name = "open"\n[machine]\nmemory = "16 MiB"\n')
    open_listen = work.call("primary", machine, "--state-dir", work.state("p").path, "--listen", "192.0.2.1:7700")
    assert open_listen.returncode == 1 and "make keys with" in open_listen.stderr
    open_join = work.call("backup", machine, "--state-dir", work.state("b").path, "--join", "192.0.2.1:7700")
    assert open_join.returncode == 1 and "--join: 192.0.2.1:7700 can be reached from other hosts" in open_join.stderr
    waiting = work.start("backup", machine, "--state-dir", work.state("w").path, "--join", "127.0.0.1:7700")
    work.until(lambda: "waiting for the primary" in waiting.stderr, "the backup to say what it waits for")
    assert "is it mounted?" in waiting.stderr and waiting.process.poll() is None
