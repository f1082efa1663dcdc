# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel's boot: CPU time and log beside the bare engine and QEMU, on the same kernel and initramfs.

All boot to the initramfs's script and switch off. QEMU's time includes its OpenSBI. Without the guests there is one
figure, which says why.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import linux_load, linux_pair
from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.plain_engine import PlainEngine
from bench.qemu import PATIENCE_S, QEMU, cpu_seconds, mode_options
from bench.solo import Solo
from bench.stock import BOOT, MEMORY_MIB, boot_text, fetched
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted

GOALS: Final = {"QEMU plain": 1.2, "QEMU rr=record": 1.0, "the engine without hooks": 1.15}


def stock(bench: Bench) -> Iterator[Figure]:
    """All figures of stock guests; a part that fails does not cost the others."""
    try:
        directory = fetched("bench", Wanted())
    except (FetchError, OSError) as error:
        yield Figure("stock Linux", None, "x", note=f"no stock guests: {error}"[:300])
        return
    for part in (_boots, linux_load.loads, linux_pair.paired):
        try:
            yield from part(bench, directory)
        except (RuntimeError, OSError) as error:
            yield Figure(f"stock Linux, {part.__name__.strip('_')}: failed", None, "", note=str(error)[-400:])


def _boots(bench: Bench, directory: Path) -> Iterator[Figure]:
    """Boots in turns: ours, ours while recording, and the others."""
    others = dict.fromkeys(GOALS, "")
    bare = None
    if shutil.which(QEMU) is None:
        others["QEMU plain"] = others["QEMU rr=record"] = f"{QEMU} is not installed"
    try:
        bench.say("stock boot on the engine without hooks, looking where it spins")
        bare = PlainEngine(bench, boot_text(directory))
    except RuntimeError as error:
        others["the engine without hooks"] = f"it did not boot: {error}"[:300]
    ours: list[float] = []
    recorded: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in GOALS}
    for number in range(bench.effort.rounds):
        bench.say(f"stock boot, round {number + 1}")
        ours.append(_ours(bench, directory, None))
        recorded.append(_ours(bench, directory, bench.path(f"boot{number}.log")))
        for name in GOALS:
            if others[name]:
                continue
            try:
                theirs[name].append(bare.cpu_seconds() if bare and "engine" in name else _qemu(bench, directory, name))
            except RuntimeError as error:
                others[name] = f"it did not boot: {error}"[:300]
    yield Figure("stock boot, CPU", middle(ours), "s", note=spread(ours))
    ratios = [plain / slow for plain, slow in zip(ours, recorded, strict=True)]
    yield Figure("recorded / unrecorded, stock boot, CPU", middle(ratios), "x", at_least=0.97, note=spread(ratios))
    for name, goal in GOALS.items():
        ratios = [our / their for our, their in zip(ours, theirs[name], strict=False)]
        note = spread(ratios) or others[name]
        yield Figure(f"ours / {name}, stock boot, CPU", middle(ratios), "x", at_most=goal, note=note)
    size = bench.path("boot0.log").stat().st_size
    yield Figure("log of a stock boot", size / 1e3, "kB", at_most=40)


def _ours(bench: Bench, directory: Path, log: Path | None) -> float:
    solo = Solo(bench.directory, boot_text(directory), log)
    try:
        spent = solo.run(PATIENCE_S).cpu_s
        if not solo.ended:
            raise RuntimeError(f"the stock kernel did not end within {PATIENCE_S:g} s")
        return spent
    finally:
        solo.close()


def _qemu(bench: Bench, directory: Path, name: str) -> float:
    command = [QEMU, "-M", "virt", "-m", str(MEMORY_MIB), "-bios", "default", "-net", "none", "-display", "none"]
    command += ["-monitor", "none", "-serial", "null", "-kernel", str(directory / "vmlinux")]
    command += ["-initrd", str(directory / "initramfs.cpio.gz"), "-append", BOOT]
    command += mode_options("record" if "record" in name else "plain", bench.path("rr.bin"))
    return cpu_seconds(command)
