# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that can never fit its primary ends in words, with exit code 1; its primary is not disturbed."""

from __future__ import annotations

from ftvm.status import read_status

from .workshop import Workshop, role

MACHINE = """\
name = "near"
[machine]
memory = "{memory} MiB"
[[disk]]
image = "disk0.img"
size = "1 MiB"
[service.block]
listen = ["unix:nbd.sock"]
[pair]
listen = "127.0.0.1:0"
arbiter = "file:{shared}"
"""


def test_a_backup_with_another_machine_file_does_not_ask_for_ever(work: Workshop) -> None:
    """Another memory size: told which of the two differs and what to do; with the right file the same side joins."""
    ours, theirs, third = work.state("ours"), work.state("theirs"), work.state("third")
    shared = work.directory / "arbiter"
    right = work.machine(MACHINE.format(memory=16, shared=shared), "right")
    wrong = work.machine(MACHINE.format(memory=32, shared=shared), "wrong")
    work.start("primary", right, "--member", "a", "--state-dir", ours.path)
    work.until(lambda: read_status(ours)["sides"]["a"].get("channel"), "the primary to take a backup")
    channel = read_status(ours)["sides"]["a"]["channel"]
    refused = work.start("backup", wrong, "--member", "b", "--state-dir", theirs.path, "--join", channel)
    assert refused.wait() == 1
    assert "machine configuration" in refused.stderr and "use the same machine file on both" in refused.stderr
    assert role(ours, "a") == "primary"
    work.start("backup", right, "--member", "b", "--state-dir", third.path, "--join", channel)
    work.until(lambda: role(third, "b") == "backup", "the backup with the right file to be in sync")
