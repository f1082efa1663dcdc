# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay`: recordings of every bundled guest run again in another process, and what is refused in words."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from devices.event import Event, EventKind
from ftvm.config_error import ConfigError
from ftvm.demo.nbd_client import Address, NbdClient, Outcome
from ftvm.demo.nbd_wire import Command, Request
from ftvm.guests import catalog
from ftvm.replaying import run_replay
from ftvm.service.nbd import VENDOR
from ftvm.state_dir import StateDir
from replay.batch import Recorded
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_reader import LogReader
from replay.log_writer import LogWriter

from .workshop import Workshop, reported, serves

EIO = 5
GUEST = 'name = "guest"\n[machine]\nkernel = "%s"\nmemory = "16 MiB"\ncmdline = "%s"\n'
BLOCKD = """\
name = "blockd"
[machine]
memory = "32 MiB"
cmdline = "crash=on"
[[disk]]
image = "disk0.img"
size = "16 MiB"
[service.block]
vendor = true
[driver]
watchdog_ms = 200
"""


def record(work: Workshop, machine: Path, name: str = "guest") -> Path:
    """A recording of a guest that ends by itself."""
    log = work.directory / f"{name}.log"
    done = work.call("run", machine, "--state-dir", work.state(name).path, "--record", log)
    assert done.returncode == 0, done.stderr
    return log


@pytest.fixture(scope="module")
def console_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with typed input, of a kernel that is a file beside it."""
    work = Workshop(tmp_path_factory.mktemp("console"))
    guest = catalog.find("console")
    assert guest is not None
    shutil.copy(guest.path, work.directory / "kernel.elf")
    text = GUEST % ("kernel.elf", "") + '[console]\nbackend = "stdio"\n'
    log = work.directory / "guest.log"
    run = work.start(
        "run", work.machine(text), "--state-dir", work.state("s").path, "--record", log, stdin=subprocess.PIPE
    )
    assert run.process.stdin is not None
    for line in ("one", "two", "quit"):
        run.process.stdin.write(line.encode() + b"\n")
        run.process.stdin.flush()
        work.until(lambda line=line: line in run.stdout, f"the echo of {line}")
    assert run.wait() == 0, run.stderr
    run.process.stdin.close()
    work.close()
    return log


def rewritten(
    log: Path,
    target: Path,
    header: Callable[[LogHeader], LogHeader] = lambda header: header,
    entry: Callable[[Recorded], Recorded] = lambda pair: pair,
) -> Path:
    """A recording with another header or other entries, and every check in order."""
    with LogReader(log) as reader, LogWriter(target, header(reader.header)) as writer:
        for pair in reader:
            writer.append(*entry(pair), 0.0)
            writer.flush()  # a record for each entry
    return target


# -- every bundled guest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guest", "arguments"), [("compute", "insns=200000000"), ("timer", "ticks=400")])
def test_guests_that_compute_and_sleep_replay_with_every_digest(work: Workshop, guest: str, arguments: str) -> None:
    """To the same end, and no slower than they were recorded."""
    log = record(work, work.machine(GUEST % (guest, arguments)))
    replays = [reported(work.call("replay", "--json", log)) for _ in range(2)]
    for report in replays:
        assert report["verified"] and report["closed"] and report["end"] == "poweroff"
        assert report["entries"] > 20 and report["divergence"] is None
    # Guest time follows the host's while recording; a wide margin, since other processes share this machine.
    assert min(report["seconds"] for report in replays) < 1.5 * replays[0]["guest_seconds"] + 0.2


def test_the_network_guest_replays_with_every_digest(work: Workshop) -> None:
    """It waits for packets that never come, and is stopped."""
    text = GUEST % ("netecho", "ip=10.0.0.2") + '[[network]]\nbackend = "none"\n'
    state, log = work.state("guest"), work.directory / "guest.log"
    run = work.start("run", work.machine(text), "--state-dir", state.path, "--record", log)
    work.until(lambda: "ready" in _console(state), "the guest to be ready")
    assert work.call("stop", "--state-dir", state.path).returncode == 0 == run.wait()
    report = reported(work.call("replay", "--json", log))
    assert report["verified"] and report["end"] == "stopped" and report["divergence"] is None


def _console(state: StateDir) -> str:
    path = state.path / "console.log"
    return path.read_text() if path.exists() else ""


def test_typed_input_comes_back_in_the_replay(work: Workshop, console_log: Path) -> None:
    """What was typed is in the log, and the guest prints the same again."""
    shown = work.call("replay", "--console", console_log)
    assert shown.returncode == 0, shown.stderr
    assert "one" in shown.stdout and "two" in shown.stdout and "every digest as recorded" in shown.stdout
    with LogReader(console_log) as reader:
        typed = [event for entry, _ in reader for event in entry.events if event.kind == EventKind.CONSOLE_INPUT]
    assert b"".join(event.data for event in typed) == b"one\ntwo\nquit\n"


def test_the_driver_replays_under_load_with_its_crashes(work: Workshop) -> None:
    """Two real clients write while the driver panics, hangs and overwrites its queues; then all from the log alone."""
    state, log = work.state("blockd"), work.directory / "blockd.log"
    run = work.start("run", work.machine(BLOCKD), "--state-dir", state.path, "--record", log)
    work.until(lambda: serves(state), "the driver to be served")
    uri = f"nbd+unix:///?socket={state.path}/nbd.sock"
    source = work.directory / "source.img"
    source.write_bytes(bytes(range(256)) * (32 << 10))
    copy = subprocess.Popen(["nbdcopy", "--requests=16", str(source), uri])
    io = subprocess.Popen(
        ["qemu-io", "-f", "raw", *_aio(range(8, 16)), uri], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    outcomes = asyncio.run(_kill_thrice(f"unix:{state.path}/nbd.sock"))
    assert copy.wait(10) == 0
    said = io.communicate(timeout=10)[0]
    assert io.returncode == 0 and "error" not in said, said
    assert work.call("stop", "--state-dir", state.path).returncode == 0 == run.wait()
    assert outcomes == [EIO, EIO, EIO]
    # A request is the killer when it kills twice, alone in the driver the second time.
    assert run.stderr.count("driver restart") >= 6, run.stderr

    replayed = work.call("replay", "--json", log)
    report = reported(replayed)
    assert replayed.returncode == 0 and report["verified"] and report["closed"], replayed.stderr
    assert report["entries"] > 20 and report["end"] == "stopped"


def _aio(mebibytes: Iterable[int]) -> list[str]:
    return [part for at in mebibytes for part in ("-c", f"aio_write -P {at} {at}M 256k")] + ["-c", "aio_flush"]


async def _kill_thrice(address: str) -> list[int]:
    """Vendor requests that panic, hang, and overwrite the queues, each with writes around it; their errors."""
    client = NbdClient(Address.parse(address))
    await client.open()
    killed: list[int] = []
    try:
        for mode in (1, 2, 3):
            answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            client.submit(Request(Command.WRITE, offset=15 << 20, data=bytes(4096)), lambda outcome: None)
            client.submit(Request(VENDOR, offset=mode), answered.set_result)
            client.submit(Request(Command.WRITE, offset=15 << 20, data=bytes(4096)), lambda outcome: None)
            killed.append((await answered).error)
    finally:
        await client.close()
    return killed


# -- what is not as it was ------------------------------------------------------------------------------------------


def test_a_digest_that_differs_is_a_divergence_in_words(work: Workshop, console_log: Path) -> None:
    """At the very entry, with what differs and the last event before; without verification nobody looks."""
    victim = 3

    def tamper(pair: Recorded) -> Recorded:
        entry, result = pair
        return (entry, replace(result, digest=result.digest ^ 1)) if entry.sequence == victim else pair

    log = rewritten(console_log, work.directory / "changed.log", entry=tamper)
    diverged = work.call("replay", log)
    assert diverged.returncode == 1
    assert f"divergence in entry {victim}, which starts at clock" in diverged.stderr
    assert "digest is" in diverged.stderr and "last event before was console input" in diverged.stderr
    assert diverged.stdout.startswith(f"{victim - 1} entries replayed")
    assert work.call("replay", "--no-verify", log).returncode == 0


def test_another_input_is_a_divergence_too(work: Workshop, console_log: Path) -> None:
    """One letter of what was typed; the JSON names the entry that it came with."""
    changed = []

    def tamper(pair: Recorded) -> Recorded:
        entry, result = pair
        if any(event.data == b"two\n" for event in entry.events):
            changed.append(entry.sequence)
            entry = replace(entry, events=(Event(EventKind.CONSOLE_INPUT, 0, b"tWo\n"),))
        return entry, result

    log = rewritten(console_log, work.directory / "changed.log", entry=tamper)
    found = work.call("replay", "--json", log)
    assert found.returncode == 1
    assert json.loads(found.stdout)["divergence"]["sequence"] == changed[0]


def test_a_damaged_recording_replays_to_the_damage(work: Workshop, console_log: Path) -> None:
    """One bit in its last record of entries: what is before it was run, the rest is not believed."""
    log = rewritten(console_log, work.directory / "damaged.log")
    entries = run_replay(log).entries
    content = bytearray(log.read_bytes())
    content[-40] ^= 4
    log.write_bytes(content)
    found = work.call("replay", "--json", log)
    assert found.returncode == 1 and "damaged at offset" in found.stderr
    report = json.loads(found.stdout)
    assert report["entries"] == entries - 1 and report["divergence"] is None and not report["closed"]


def test_a_wrong_or_missing_kernel_is_refused(work: Workshop, console_log: Path) -> None:
    """The kernel is found by its path and known by its digest; a machine file says where it is now."""
    kernel = console_log.parent / "kernel.elf"
    content = kernel.read_bytes()
    try:
        kernel.unlink()
        missing = work.call("replay", console_log)
        assert missing.returncode == 1 and "cannot be loaded here" in missing.stderr and str(kernel) in missing.stderr
        kernel.write_bytes(content + b"\0")
        with pytest.raises(LogError, match="image 'kernel' has digest"):
            run_replay(console_log)
    finally:
        kernel.write_bytes(content)
    shutil.copy(kernel, work.directory / "moved.elf")
    machine = work.machine(GUEST % ("moved.elf", ""))
    assert run_replay(console_log, machine_file=machine).sound


def test_another_configuration_is_refused(work: Workshop, console_log: Path) -> None:
    """Memory is part of what the guest sees."""
    text = (GUEST % (console_log.parent / "kernel.elf", "")).replace("16 MiB", "32 MiB")
    refused = work.call("replay", console_log, "--machine", work.machine(text))
    assert refused.returncode == 1
    assert str(console_log) in refused.stderr and "the machine is configured differently" in refused.stderr


def test_another_engine_or_format_is_refused(work: Workshop, console_log: Path) -> None:
    """An engine's other version is not tried, a format of the future not guessed at."""
    engine = rewritten(
        console_log, work.directory / "engine.log", header=lambda header: replace(header, engine="unicorn 9, core 9")
    )
    with pytest.raises(LogError, match="recorded with engine 'unicorn 9, core 9'"):
        run_replay(engine)

    preamble = struct.Struct("<8sHI")
    content = console_log.read_bytes()
    magic, version, length = preamble.unpack_from(content)
    head = preamble.pack(magic, version + 1, length)
    future = work.directory / "future.log"
    future.write_bytes(head + struct.pack("<I", crc32(head)) + content[preamble.size + 4 :])
    with pytest.raises(LogError, match="is newer than this ftvm reads"):
        run_replay(future)


def test_a_machine_file_that_this_ftvm_does_not_know_is_refused(work: Workshop, console_log: Path) -> None:
    """A recording of another version may name what is not there yet; the message says which file is meant."""
    changed = rewritten(
        console_log,
        work.directory / "later.log",
        header=lambda header: replace(header, machine=header.machine + b"\n[telepathy]\n"),
    )
    with pytest.raises(ConfigError, match=r"later\.log.*telepathy: no such name"):
        run_replay(changed)


def test_a_file_that_is_no_recording_is_refused(work: Workshop) -> None:
    """In one line, without a traceback."""
    refused = work.call("replay", work.machine("name = 'x'\n"))
    assert refused.returncode == 1 and "is not an ftvm log" in refused.stderr and "Traceback" not in refused.stderr
    with pytest.raises(LogError, match="No such file"):
        run_replay(work.directory / "missing.log")
