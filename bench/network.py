# SPDX-License-Identifier: GPL-2.0-or-later
"""What protection costs a guest's network traffic, and what a client notices of a failover.

    network namespace:   iperf3, ping, `silence` -- br0 10.0.2.2 -- vm0 (TAP) -- stock Linux 10.0.2.15, iperf3 -s

The same primary alone and with a backup, in turns; each side has a core where there are two, and the client shares
them. Then primaries are killed one after the other while the client downloads over one connection.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.effort import Bench
from bench.figure import Figure, middle, percentile, spread
from bench.sides import Sides, stopped
from bench.stock import fetched
from ftvm.linux import newc
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted

CLIENT, GUEST, ENDLESS_PORT = "10.0.2.2", "10.0.2.15", "5003"
BOOT_S: Final = 300.0
PING_INTERVAL_S: Final = 0.01
PINGS_PER_S: Final = 40  # of effort: a window of 5 s makes 200 pings
CALM_S: Final = 0.5  # before a kill
SERVER_S: Final = 60.0
AFTER_S: Final = 1.5  # behind it
READY: Final = "NET-READY"
SCRIPT: Final = f"""\
#!/bin/sh
while :; do iperf3 -s -1 > /dev/null; done &
nc -ll -p {ENDLESS_PORT} -e /bin/endless &
until netstat -ltn | grep -q ":{ENDLESS_PORT} "; do usleep 50000; done
echo {READY}
wait
"""
MACHINE: Final = """\
name = "bench"

[machine]
memory = "128 MiB"
kernel = "{guests}/vmlinux"
initrd = "{initrd}"
cmdline = "console=ttyS0 quiet ip={guest}/24 script=/bin/serve"

[console]
backend = "file:console.log"

[[network]]
backend = "tap:vm0"
"""


class Wire:
    """The namespace; a context manager that leaves none behind."""

    def __init__(self) -> None:
        self._name = f"ftvmbench{os.getpid()}"

    @property
    def prefix(self) -> list[str]:
        """Of commands that are to run on it."""
        return ["ip", "netns", "exec", self._name]

    def run(self, *command: str) -> str:
        """A command's standard output; RuntimeError in words."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        if done.returncode and not done.stdout.startswith("{"):  # iperf3 says in JSON what went wrong
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout

    def __enter__(self) -> Wire:
        subprocess.run(["ip", "netns", "add", self._name], check=True)
        for command in (
            "link set lo up",
            "link add br0 type bridge mcast_snooping 0",
            "link set br0 up",
            f"address add {CLIENT}/24 dev br0",
            "tuntap add dev vm0 mode tap",
            "link set vm0 master br0 up",
        ):
            self.run("ip", *command.split())
        # Not what this host happens to prefer: one that paces by the rates it has seen measures its own guesses.
        self.run("sh", "-c", "echo reno > /proc/sys/net/ipv4/tcp_congestion_control")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self._name], check=False)


def traffic(bench: Bench) -> Iterator[Figure]:
    """Throughput, latency, log and silence; one figure that says why when there can be none."""
    missing = [program for program in ("ip", "iperf3", "ping") if shutil.which(program) is None]
    why = f"not installed: {', '.join(missing)}" if missing else ""
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        why = "network namespaces and TAP devices need root and /dev/net/tun"
    try:
        text = "" if why else _machine(bench)
    except (FetchError, OSError) as error:
        why = f"no stock guests: {error}"[:300]
    if why:
        yield Figure("TCP throughput, paired / unpaired", None, "x", note=why)
        return
    with Wire() as wire:
        yield from _in_turns(bench, wire, text)
        yield from _log(bench, wire, text)


def _machine(bench: Bench) -> str:
    guests = fetched("bench-network", Wanted(packages=("iperf3",)))
    endless = "#!/bin/sh\nexec cat /dev/zero\n"
    tree = {name: newc.regular(text.encode(), 0o755) for name, text in (("serve", SCRIPT), ("endless", endless))}
    initrd = bench.path("initramfs")
    overlay = newc.packed({f"usr/bin/{name}": node for name, node in tree.items()})
    initrd.write_bytes((guests / "initramfs.cpio.gz").read_bytes() + overlay)
    return MACHINE.format(guests=guests, initrd=initrd, guest=GUEST)


def _sides(bench: Bench, wire: Wire, text: str, name: str, record: Path | None = None) -> Sides:
    """Side a, live and serving."""
    bench.say(f"stock Linux boots: {name}")
    directory = bench.path(name)
    directory.mkdir()
    sides = Sides(directory, text, record=record, pinned=True, prefix=wire.prefix)
    try:
        sides.start_primary()
        console = sides.state.resolve("console.log")
        sides.until(lambda: console.exists() and READY in console.read_text(errors="replace"), "service", BOOT_S)
    except BaseException:
        sides.close()
        raise
    return sides


def _in_turns(bench: Bench, wire: Wire, text: str) -> Iterator[Figure]:
    alone, paired = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with _sides(bench, wire, text, "in turns") as sides:
        _measure(bench, wire, alone)
        for _ in range(bench.effort.rounds):
            sides.start_backup()
            _measure(bench, wire, paired)
            sides.kill_backup()
            _measure(bench, wire, alone)
        sides.start_backup()
        yield from _ratios(alone, paired)
        yield from _failovers(bench, wire, sides)


def _measure(bench: Bench, wire: Wire, found: dict[str, list[float]]) -> None:
    seconds = bench.effort.window_s
    bench.say("throughput both ways, and ping")
    found["to"].append(_iperf(wire, seconds))
    found["from"].append(_iperf(wire, seconds, "-R"))
    count = max(20, int(PINGS_PER_S * seconds))
    lines = wire.run("ping", "-i", str(PING_INTERVAL_S), "-c", str(count), GUEST).splitlines()
    times = [float(line.partition("time=")[2].split()[0]) for line in lines if "time=" in line]
    found["ping"].append(percentile(times, 50) or 0.0)


def _iperf(wire: Wire, seconds: float, *options: str) -> float:
    """Megabytes per second that arrived."""
    return float(_report(wire, seconds, *options)["bits_per_second"]) / 8e6


def _report(wire: Wire, seconds: float, *options: str) -> dict[str, float]:
    """What iperf3 says of all that arrived; RuntimeError in its words."""
    end = time.monotonic() + SERVER_S
    while True:  # the server is not there for a moment after each test
        report = json.loads(wire.run("iperf3", "-c", GUEST, "-t", str(max(2, round(seconds))), "-J", *options))
        if "error" not in report:
            found: dict[str, float] = report["end"]["sum_received"]
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"iperf3 {' '.join(options)}: {report['error']}")
        time.sleep(0.2)


def _ratios(alone: dict[str, list[float]], paired: dict[str, list[float]]) -> Iterator[Figure]:
    for key, name in (("to", "to the guest"), ("from", "from the guest")):
        # Each paired measurement against the mean of the two beside it.
        beside = [(one + other) / 2 for one, other in zip(alone[key], alone[key][1:], strict=False)]
        ratios = [value / base for value, base in zip(paired[key], beside, strict=True)]
        yield Figure(f"TCP {name}, unpaired", middle(alone[key]), "MB/s", note=spread(alone[key]))
        yield Figure(f"TCP {name}, paired", middle(paired[key]), "MB/s", note=spread(paired[key]))
        yield Figure(f"paired / unpaired, TCP {name}", middle(ratios), "x", at_least=0.93, note=spread(ratios))
    before, after = middle(alone["ping"]), middle(paired["ping"])
    assert before is not None and after is not None
    yield Figure("ping p50, unpaired", before, "ms", note=spread(alone["ping"]))
    yield Figure("ping p50, paired", after, "ms", note=spread(paired["ping"]))
    yield Figure("latency that protection adds to a ping, p50", after - before, "ms", at_most=0.3)


def _failovers(bench: Bench, wire: Wire, sides: Sides) -> Iterator[Figure]:
    """A client downloads over one connection; each kill is followed by a new backup."""
    silences: list[float] = []
    before = _timeouts(wire)
    command = [*wire.prefix, sys.executable, "-P", str(Path(__file__).with_name("silence.py")), GUEST, ENDLESS_PORT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        for number in range(bench.effort.kills):
            bench.say(f"kill {number + 1} of {bench.effort.kills}")
            time.sleep(CALM_S)
            _longest(client)
            sides.fail_over()
            time.sleep(AFTER_S)
            silences.append(_longest(client))
            stopped(client.pid, True)  # a guest that sends with all its might would share the cores with the joiner
            sides.start_backup()
            stopped(client.pid, False)
        timeouts = _timeouts(wire) - before
        client.kill()
    note = f"one connection over {len(silences)} kills; {timeouts} retransmission timeouts of the client's"
    yield Figure("silence of a TCP client at a failover, p50", percentile(silences, 50), "ms", at_most=150, note=note)
    worst = percentile(silences, 99)
    yield Figure("silence of a TCP client at a failover, p99", worst, "ms", at_most=500, note=spread(silences))


def _longest(client: subprocess.Popen[str]) -> float:
    """The client's longest silence since it was asked the last time, in milliseconds."""
    assert client.stdin is not None and client.stdout is not None
    try:
        client.stdin.write("\n")
        client.stdin.flush()
        return float(client.stdout.readline())
    except (ValueError, BrokenPipeError):
        raise RuntimeError("the client's connection has ended") from None


def _timeouts(wire: Wire) -> int:
    lines = wire.run("cat", "/proc/net/netstat").splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index("TCPTimeouts")])


def _log(bench: Bench, wire: Wire, text: str) -> Iterator[Figure]:
    """A recording grows by the bytes that the guest receives, and little else."""
    log = bench.path("network.log")
    with _sides(bench, wire, text, "recorded", log):
        before = log.stat().st_size
        received = _report(wire, bench.effort.window_s)["bytes"]
        time.sleep(CALM_S)
        grown = log.stat().st_size - before
    note = f"{received / 1e6:,.0f} MB over TCP"
    yield Figure("log of a byte received", grown / received, "B", at_most=1.03, note=note)
