# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine in another process: `python -m tests.pair.replica` takes a state and entries, tells what came of them.

In and out go through msgpack only. In: [machine file's tables, state or nil, disks, entries]; out: [facts of every
epoch, state, disks]. State and disks are sections, as a checkpoint has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import xxhash

from ftvm.config import parse
from ftvm.image import load_image
from ftvm.machine import Machine, Sections
from ftvm.scratch_disk import ScratchDisk, load_disks, pack_disks
from replay.entry import Entry, EpochResult, decode_entry, encode_entry

ROOT = Path(__file__).resolve().parents[2]
Facts = list[int]


def facts(result: EpochResult) -> Facts:
    """Everything about an epoch that replicas must agree on, small."""
    outputs = xxhash.xxh3_64()
    for output in result.outputs:
        outputs.update(f"{output.kind} {output.unit} {output.offset} {output.durable} {len(output.data)} ".encode())
        outputs.update(output.data)
    numbers = [result.sequence, result.reason, result.clock, result.time, result.digest, result.pages]
    return [*numbers, len(result.outputs), outputs.intdigest()]


def build(tables: dict[str, Any]) -> tuple[Machine, list[ScratchDisk]]:
    """A machine at power-on, with empty disks."""
    config = parse(tables, "replica")
    disks = [ScratchDisk(disk.size or 0) for disk in config.disk]
    return Machine(config, load_image(config), disks), disks


def elsewhere(
    tables: dict[str, Any], state: Sections | None, disks: Sections, entries: Sequence[Entry]
) -> tuple[list[Facts], Sections, Sections]:
    """Run the entries in another process."""
    question = msgpack.packb([tables, state, disks, [encode_entry(entry) for entry in entries]])
    command = [sys.executable, "-m", "tests.pair.replica"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=question, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment)
    told, after, disks_after = msgpack.unpackb(done.stdout)
    return told, [(name, data) for name, data in after], [(name, data) for name, data in disks_after]


def main() -> None:
    """See the top."""
    tables, state, sections, entries = msgpack.unpackb(sys.stdin.buffer.read())
    machine, disks = build(tables)
    load_disks([(name, data) for name, data in sections], disks)
    if state is not None:
        machine.restore([(name, data) for name, data in state])
    told = [facts(machine.run(decode_entry(entry))) for entry in entries]
    sys.stdout.buffer.write(msgpack.packb([told, machine.save(), pack_disks(disks)]))


if __name__ == "__main__":
    main()
