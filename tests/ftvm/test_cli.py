# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: what it prints, what it exits with, and how fast it starts."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ftvm import cli
from ftvm.arbiter.file import FileArbiter
from ftvm.cli import COMMANDS, main
from ftvm.config import MachineConfig, load
from ftvm.config_text import example, to_toml
from ftvm.disk.metadata import ImageLedger
from ftvm.state_dir import StateDir, default_path
from ftvm.status import StatusWriter

LOG = Path(__file__).parents[1] / "replay" / "golden" / "format-1.ftvmlog"
HEAVY = ("pydantic", "unicorn", "zmq", "msgpack", "elftools", "libfdt", "rich", "lz4")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without pairs, in an empty directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def ftvm(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="ftvm")


def pair(name: str = "disk0", content: bytes = b"newest" * 1000) -> StateDir:
    """A pair that ran and stopped: term 1 was a's, term 2 was b's, whose image has `content` after a hole."""
    config = MachineConfig.default(name)
    state = StateDir(default_path(name))
    state.create()
    state.keep_machine(to_toml(config))
    arbiter = FileArbiter(state.path / "arbiter", name)
    arbiter.prepare()
    for term, side in enumerate("ab", 1):
        arbiter.acquire(term, side, (side,))
        ImageLedger(state.side(side), name).took_over(term, 10 * term)
        with state.image(side, 0).open("wb") as image:
            image.truncate(64 << 20)
            image.seek(32 << 20)
            image.write(content if side == "b" else b"older")
    return state


# -- the command itself -------------------------------------------------------------------------------------------


def test_help_names_every_command_and_the_exit_codes() -> None:
    result = ftvm("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)
    assert "Exit codes: 0 all is well, 1 failed" in result.output
    assert ftvm("-h").output == result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_begins_as_the_table_says(name: str) -> None:
    command = importlib.import_module(f"ftvm.commands.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command) and command.help
    assert ftvm(name, "--help").exit_code == 0


def test_help_starts_without_anything_heavy() -> None:
    code = f"import sys; import ftvm.cli; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    taken = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "ftvm.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.monotonic() - begin)
    assert min(taken) < 0.4, "0.05 s on an idle machine"


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["status", "a", "b"], ["disk", "export"], ["log"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert ftvm(*arguments).exit_code == 2


def test_failures_with_words_are_told_in_a_line_and_exit_with_1() -> None:
    result = ftvm("status", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith('ftvm: there is no pair "x"') and result.stdout == ""


def test_a_bug_is_not_dressed_up_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.state_dir.find", lambda *_: 1 / 0)
    assert isinstance(ftvm("status").exception, ZeroDivisionError)


def test_every_told_failure_exists() -> None:
    for module, name in cli._TOLD.items():
        assert issubclass(getattr(importlib.import_module(module), name), Exception)


# -- machine ------------------------------------------------------------------------------------------------------


def test_the_example_is_a_machine_file_that_passes_the_check() -> None:
    result = ftvm("machine", "example", "--name", "mine")
    assert result.stdout == example("mine")
    Path("mine.toml").write_text(result.stdout)
    checked = ftvm("machine", "check", "mine.toml", "--json")
    assert checked.exit_code == 0, checked.output
    found = json.loads(checked.stdout)
    assert found["name"] == "mine" and found["kernel"] == "blockd (bundled)"
    assert found["slots"][0].startswith("0: disk0 at 0x10001000") and found["serves"] == ["unix:nbd.sock"]
    assert "new and empty" in found["disks"][0]
    assert "0: disk0 at 0x10001000, interrupt 1" in ftvm("machine", "check", "mine.toml").stdout


def test_a_check_tells_where_a_disk_comes_from() -> None:
    Path("mine.toml").write_text(example("mine"))
    Path("disk0.img").write_bytes(bytes(512))
    found = json.loads(ftvm("machine", "check", "mine.toml", "--json").stdout)
    assert f"{Path.cwd()}/disk0.img is not it: images are looked for in the state directory" in found["disks"][0]
    state = default_path("mine")
    state.mkdir(parents=True)
    with (state / "disk0.img").open("wb") as image:
        image.truncate(64 << 20)
    found = json.loads(ftvm("machine", "check", "mine.toml", "--json").stdout)
    assert found["disks"] == [f"0: 64 MiB, copied from {state}/disk0.img at the first start"]


def test_a_wrong_machine_file_is_told_line_by_line() -> None:
    Path("x.toml").write_text('name = "x"\n[machine]\nmemory = "64 MB"\nkernal = "x"\n')
    result = ftvm("machine", "check", "x.toml")
    assert result.exit_code == 1
    assert 'x.toml: machine.memory: "64 MB" is not a size; write e.g. "64 MiB"' in result.stderr
    assert 'x.toml: machine.kernal: no such name; did you mean "kernel"?' in result.stderr
    Path("y.toml").write_text('name = "x"\n[machine]\nkernel = "nowhere"\n')
    assert "no bundled guest of that name" in ftvm("machine", "check", "y.toml").stderr
    assert "cannot be read: No such file" in ftvm("machine", "check", "none.toml").stderr


def test_keys_are_written_for_the_owner_only() -> None:
    assert ftvm("machine", "keys", "pair.keys").exit_code == 0
    assert Path("pair.keys").stat().st_mode & 0o777 == 0o600
    again = ftvm("machine", "keys", "pair.keys")
    assert again.exit_code == 1 and "exists already" in again.stderr
    text = example().replace("127.0.0.1:0", "0.0.0.0:7700").replace("# keys", "keys")
    Path("x.toml").write_text(text)
    assert load(Path("x.toml")).keys_path == Path.cwd() / "pair.keys"


# -- guest, log ---------------------------------------------------------------------------------------------------


def test_bundled_guests_are_listed() -> None:
    listed = json.loads(ftvm("guest", "list", "--json").stdout)
    assert {"blockd", "netecho", "console", "compute", "timer"} <= {guest["name"] for guest in listed}
    plain = ftvm("guest", "list").stdout
    assert all(guest["name"] in plain and guest["description"] in plain for guest in listed)


def test_a_log_is_counted_shown_and_verified() -> None:
    found = json.loads(ftvm("log", "stat", LOG, "--json").stdout)
    assert found["entries"] == 302 and found["first_sequence"] == 41
    assert "entries                   302" in ftvm("log", "stat", LOG).stdout
    lines = ftvm("log", "show", LOG, "--from", "50", "--to", "51").stdout.splitlines()
    assert [line.split()[0] for line in lines if "clock" in line] == ["50", "51"]
    verdict = ftvm("log", "verify", LOG)
    assert verdict.exit_code == 0 and "302 entries" in verdict.stdout


def test_a_torn_log_is_in_order_and_a_damaged_one_is_not() -> None:
    content = bytearray(LOG.read_bytes())
    Path("torn").write_bytes(content[:-3])
    torn = ftvm("log", "verify", "torn", "--json")
    assert torn.exit_code == 0 and json.loads(torn.stdout)["state"] == "torn"
    content[len(content) // 2] ^= 1
    Path("damaged").write_bytes(content)
    damaged = ftvm("log", "verify", "damaged", "--json")
    assert damaged.exit_code == 1 and json.loads(damaged.stdout)["exit_code"] == 1
    shown = ftvm("log", "show", "damaged")
    assert shown.exit_code == 1 and shown.stderr.startswith("ftvm: ")


# -- status -------------------------------------------------------------------------------------------------------


def test_status_of_a_stopped_pair_is_no_failure() -> None:
    pair()
    result = ftvm("status", "disk0")
    assert result.exit_code == 0
    assert "disk0: term 2, not running" in result.stdout
    found = ftvm("status", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["sides"]["b"]["role"] == "stopped"


def test_status_of_a_live_pair_is_a_table() -> None:
    state = pair()
    StatusWriter(state, "b", "disk0").update(
        time.monotonic(), role="primary", term=2, protected=True, services=["unix:nbd.sock"], lag_ms=0.25, sequence=77
    )
    result = ftvm("status", "--state-dir", state.path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "disk0: term 2, protected" and lines[1] == "  serves unix:nbd.sock"
    assert lines[-1].split()[:4] == ["b", "primary", str(os.getpid()), "77"]


def test_status_answers_within_a_second_as_a_command() -> None:
    state = pair()
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "ftvm.cli", "status", "--state-dir", state.path], stdout=subprocess.DEVNULL)
    assert time.monotonic() - begin < 1


# -- disk export --------------------------------------------------------------------------------------------------


def test_the_newest_image_is_copied_out_without_its_holes() -> None:
    pair()
    result = ftvm("disk", "export", "disk0", "out.img")
    assert result.exit_code == 0, result.output
    out = Path("out.img")
    assert out.stat().st_size == 64 << 20 and out.stat().st_blocks * 512 < 1 << 20
    with out.open("rb") as file:
        file.seek(32 << 20)
        assert file.read(12) == b"newestnewest"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["out.img"]


def test_a_side_can_be_chosen_and_a_file_replaced_on_demand() -> None:
    pair()
    assert ftvm("disk", "export", "disk0", "out.img").exit_code == 0
    refused = ftvm("disk", "export", "disk0", "out.img", "--side", "a")
    assert refused.exit_code == 1 and "exists already; --force replaces it" in refused.stderr
    assert ftvm("disk", "export", "out.img", "--side", "a", "--force").exit_code == 0
    with Path("out.img").open("rb") as file:
        file.seek(32 << 20)
        assert file.read(5) == b"older"


def test_an_image_in_use_is_not_copied() -> None:
    state = pair()
    with state.image("b", 0).open("rb") as image:
        fcntl.flock(image, fcntl.LOCK_EX)
        result = ftvm("disk", "export", "disk0", "out.img")
    assert result.exit_code == 1 and "is in use" in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_an_uncertain_image_is_refused_in_words() -> None:
    state = pair()
    state.image("b", 0).unlink()
    (state.side("b") / "image.json").unlink()
    result = ftvm("disk", "export", "disk0", "out.img")
    assert result.exit_code == 1 and "side b's images are missing, and they may be newer" in result.stderr
    assert ftvm("disk", "export", "disk0", "out.img", "--side", "a").exit_code == 0


def test_a_disk_or_pair_that_is_not_there_is_refused() -> None:
    state = pair()
    assert ftvm("disk", "export", "disk0", "out.img", "--disk", "1").exit_code == 2
    state.machine.unlink()
    result = ftvm("disk", "export", "disk0", "out.img")
    assert result.exit_code == 1 and "no pair was ever started here" in result.stderr
