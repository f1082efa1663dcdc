# SPDX-License-Identifier: GPL-2.0-or-later
"""gdb-multiarch, timed from inside: what a command takes from when it is given until GDB shows where the guest stands.

The commands are given by GDB's own Python, so neither a terminal nor this process is between.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

GDB: Final = "gdb-multiarch"
MARK: Final = "TIMES "
PATIENCE_S: Final = 240.0
SCRIPT: Final = """\
set pagination off
set confirm off
set architecture riscv:rv64
set remotetimeout 300
target remote 127.0.0.1:{port}
python
import json, time
def timed(label, command, count):
    times = []
    for _ in range(count):
        before = time.perf_counter()
        gdb.execute(command, to_string=True)
        times.append(time.perf_counter() - before)
    print("{mark}" + json.dumps([label, times]), flush=True)
{steps}
end
{last}
"""
Step = tuple[str, str, int]
"""Label, command, how often"""


def timed(port: int, image: Path, steps: Sequence[Step], last: str, log: Path) -> dict[str, list[float]]:
    """Seconds of each of these commands; `last` is GDB's last. RuntimeError when one fails; the script is in `log`."""
    lines = "\n".join(f"timed({json.dumps(label)}, {json.dumps(words)}, {count})" for label, words, count in steps)
    log.write_text(SCRIPT.format(port=port, mark=MARK, steps=lines, last=last))
    command = [GDB, "-q", "-nx", "-batch", "-x", str(log), str(image)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{steps[-1][1]!r} was not done within {PATIENCE_S:g} s") from None
    found: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            label, times = json.loads(line.removeprefix(MARK))
            found.setdefault(label, []).extend(times)
    if missing := [label for label, _, _ in steps if label not in found]:
        raise RuntimeError(f"{GDB} did not do {missing[0]!r}: {(done.stderr or done.stdout)[-300:]}")
    return found
