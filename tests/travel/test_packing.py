# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log pack`: a recording with all that it needs in one file, which nothing in it can misuse."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import msgpack
import pytest

from ftvm.board import RAM_BASE
from ftvm.config_kernel import bundled_guest
from ftvm.debugger import Debugger
from ftvm.replaying import run_replay
from replay.checkpoint_file import CheckpointFile, path_of
from replay.errors import LogError
from replay.log_reader import LogReader
from replay.log_writer import LogWriter
from replay.pack import CHECK, FORMAT, MAGIC, PREAMBLE, Pack
from tests.machine.box import blockd_config
from tests.travel.recorded import RecordedBox, record_driver
from tests.travel.test_checkpointing import OFTEN, states
from tests.travel.test_trimming import ftvm


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A recording whose kernel is a file that can go."""
    directory = tmp_path / "recorder"
    directory.mkdir()
    kernel = directory / "kernel.elf"
    shutil.copy(bundled_guest("blockd"), kernel)
    config = blockd_config()
    config = config.model_copy(update={"machine": config.machine.model_copy(update={"kernel": str(kernel)})})
    box = RecordedBox(config, directory / "a.log", replace(OFTEN, spacing_max=20_000))
    box.until("blockd: ready")
    for number in range(6):
        box.run(box.request(1, 1, number * 4096, data=bytes([number]) * 4096))
        box.wait()
    box.close()
    return directory / "a.log"


def packed(log: Path, out: Path, *options: str) -> list[str]:
    """By the command; what it says that is in it."""
    done = ftvm("log", "pack", log, out, "--json", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == out.stat().st_size
    return list(found["holds"])


def test_a_pack_replays_with_nothing_else_there(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, with the images gone, by every command."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    pack = place / "a.pack"
    assert packed(log, pack) == ["kernel", "checkpoints", "log"]
    with LogReader(log) as reader:
        pairs = list(reader)
    with Debugger.open(log) as debugger:
        end = debugger.timeline.end
        kept = [(still.sequence, still.clock) for still in debugger.timeline.stills]
        name = debugger.symbols.name(debugger.registers()["pc"])
        before = bytes(debugger.hart.ram)
        debugger.timeline.seek(end)
        written = next(at for at in range(0, len(before), 8) if debugger.hart.ram[at : at + 8] != before[at : at + 8])
    right = states(log, [end], checkpoints=False)
    shutil.rmtree(log.parent)
    monkeypatch.chdir(place)
    assert json.loads(ftvm("replay", pack, "--json").stdout)["entries"] == len(pairs)
    with Debugger.open(pack) as debugger:
        assert [(still.sequence, still.clock) for still in debugger.timeline.stills] == kept and len(kept) > 3
        assert debugger.symbols.name(debugger.registers()["pc"]) == name != ""
    assert states(pack, [end], checkpoints=True) == states(pack, [end], checkpoints=False) == right
    for command in (
        ["log", "stat", pack],
        ["log", "show", pack],
        ["log", "verify", pack],
        ["log", "grep", pack, "-k", "block_request"],
        ["log", "diff", pack, pack],
        ["log", "trim", pack, place / "part.pack", "--from", "9:0"],
        ["last-write", pack, hex(RAM_BASE + written), "--physical"],
        ["checkpoint", pack],
    ):
        done = ftvm(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert states(place / "part.pack", [end], checkpoints=True) == right, "a part of a pack is a pack"
    assert states(pack, [end], checkpoints=True) == right, "by the checkpoints beside the pack"
    assert sorted(place.iterdir()) == [pack, path_of(pack), place / "part.pack"], "nothing else is left"
    assert packed(pack, place / "again.pack") == ["kernel", "checkpoints", "log"]
    assert ftvm("replay", place / "again.pack").returncode == 0
    assert packed(pack, place / "less.pack", "--no-checkpoints") == ["kernel", "log"]
    assert ftvm("replay", place / "less.pack").returncode == 0


def test_a_pack_goes_live(log: Path, tmp_path: Path) -> None:
    """A fork of it has its images in its own directory."""
    pack = tmp_path / "a.pack"
    packed(log, pack)
    shutil.rmtree(log.parent)
    with Debugger.open(pack) as debugger:
        from ftvm.fork import copy_images, fork_config
        from ftvm.image import load_image
        from ftvm.state_dir import StateDir

        state = StateDir(tmp_path / "state")
        state.create()
        assert debugger.images is not None
        config = copy_images(fork_config(debugger.machine.config, terminal=False), debugger.images, state)
        assert load_image(config).digests == debugger.machine.image.digests


def test_what_cannot_be_packed_is_refused_in_words(log: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    kernel = log.parent / "kernel.elf"
    content = kernel.read_bytes()
    for change, arguments, words in [
        (content, (log, there), "exists"),
        (content, (tmp_path / "none.log", tmp_path / "b"), "cannot open"),
        (content, (kernel, tmp_path / "b"), "not an ftvm log"),
        (content + b"\0", (log, tmp_path / "b"), "image 'kernel' has digest"),
        (None, (log, tmp_path / "b"), "there is no file"),
    ]:
        kernel.unlink(missing_ok=True)
        if change is not None:
            kernel.write_bytes(change)
        done = ftvm("log", "pack", *arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert there.read_text() == "mine" and not (tmp_path / "b").exists() and not (tmp_path / "b.part").exists()
    log.write_bytes(log.read_bytes()[:-40])
    kernel.write_bytes(content)
    assert packed(log, tmp_path / "b")[-1] == "log", "a torn tail is left out"
    assert ftvm("log", "verify", tmp_path / "b").returncode == 0


def test_no_damage_is_mistaken_for_something_else(log: Path, tmp_path: Path) -> None:
    """Bits flipped and ends cut off, everywhere: the same replay, fewer of its entries, or an error in words."""
    whole_file = tmp_path / "a.pack"
    packed(log, whole_file)
    whole = whole_file.read_bytes()
    with LogReader(whole_file) as reader:
        pairs = list(reader)
    with whole_file.open("rb") as file:
        pack = Pack.find(file.fileno(), "a.pack")
    assert pack is not None
    chance, refused = random.Random(6), 0
    places = [*range(0, 80), *(chance.randrange(pack.log) for _ in range(100)), *range(pack.log, pack.log + 60)]
    bad = tmp_path / "bad.pack"
    for number, place in enumerate([*places, *(chance.randrange(pack.log, len(whole)) for _ in range(60))]):
        damaged = bytearray(whole)
        if number % 4 == 3:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << chance.randrange(8)
        bad.write_bytes(damaged)
        try:
            with LogReader(bad) as reader:
                found = list(reader)
            Debugger.open(bad).close()
            assert found == pairs[: len(found)], f"seed 6, number {number}"
        except LogError as error:
            refused += 1
            assert str(bad) in str(error), f"seed 6, number {number}: {error}"
    assert refused > 100


def test_a_hostile_index_is_refused(log: Path, tmp_path: Path) -> None:
    """With checks that hold: names that are paths, sizes beyond all memory, members outside of the file."""
    good = tmp_path / "a.pack"
    packed(log, good, "--no-checkpoints")
    content = good.read_bytes()
    with good.open("rb") as file:
        pack = Pack.find(file.fileno(), "a.pack")
    assert pack is not None
    kernel = pack.members["kernel"]
    body = content[kernel.offset :]

    def opened(*rows: object, rest: bytes = body) -> str:
        index = msgpack.packb(rows[0] if len(rows) == 1 and not isinstance(rows[0], list) else list(rows))
        preamble = PREAMBLE.pack(MAGIC, FORMAT, len(index))
        checks = CHECK.pack(crc32(preamble)), CHECK.pack(crc32(index))
        bad = tmp_path / "bad.pack"
        bad.write_bytes(preamble + checks[0] + index + checks[1] + rest)
        with pytest.raises(LogError) as error:
            Debugger.open(bad).close()
        assert str(bad) in str(error.value)
        return str(error.value)

    row = [kernel.stored, kernel.size, kernel.check]
    assert "is not for a pack" in opened(["../../etc/passwd", *row])
    assert "is not for a pack" in opened(["/etc/passwd", *row])
    assert "is not for a pack" in opened(["kernel", *row], ["kernel", *row])
    assert "impossible size" in opened(["kernel", kernel.stored, 1 << 40, kernel.check])
    assert "impossible size" in opened(["kernel", kernel.stored, -1, kernel.check])
    assert "impossible size" in opened(["kernel", -5, kernel.size, kernel.check])
    assert "was cut" in opened(["kernel", 1 << 50, kernel.size, kernel.check])
    assert "does not unpack to" in opened(["kernel", kernel.stored, kernel.size + 1, kernel.check])
    assert "does not unpack to" in opened(["kernel", kernel.stored, kernel.size - 1, kernel.check])
    assert "not as it was written" in opened(["kernel", kernel.stored, kernel.size, kernel.check ^ 1])
    for rows in (5, None, {"kernel": row}, "kernel"):
        assert "makes no sense" in opened(rows)
    assert "makes no sense" in opened(["kernel"]) and "makes no sense" in opened(["kernel", "a", "b", "c"])
    garbage = bytes(kernel.stored)
    assert "cannot be unpacked" in opened(
        ["kernel", kernel.stored, kernel.size, crc32(garbage)], rest=garbage + body[kernel.stored :]
    )


def test_a_pack_without_its_kernel_reads_no_file_instead(log: Path, tmp_path: Path) -> None:
    """Even where the recorded machine file names one that is there."""
    good = tmp_path / "a.pack"
    packed(log, good, "--no-checkpoints")
    with good.open("rb") as file:
        pack = Pack.find(file.fileno(), "a.pack")
    assert pack is not None
    index = msgpack.packb([])
    preamble = PREAMBLE.pack(MAGIC, FORMAT, len(index))
    head = preamble + CHECK.pack(crc32(preamble)) + index + CHECK.pack(crc32(index))
    bad = tmp_path / "bad.pack"
    bad.write_bytes(head + good.read_bytes()[pack.log :])
    assert (log.parent / "kernel.elf").exists()
    with pytest.raises(LogError, match=r"machine\.kernel: is not in the pack"):
        run_replay(bad)


def test_nobody_records_into_a_pack(tmp_path: Path) -> None:
    log = record_driver(tmp_path / "a.log", requests=3, keep=OFTEN)
    pack = tmp_path / "a.pack"
    packed(log, pack)
    before = pack.read_bytes()
    with LogReader(log) as reader, pytest.raises(LogError, match="is a pack"):
        LogWriter.resume(pack, reader.header)
    assert pack.read_bytes() == before
    with pytest.raises(LogError):
        CheckpointFile(pack)
    assert path_of(log).exists()
