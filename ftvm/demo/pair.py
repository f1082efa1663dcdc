# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's own pair: a machine file of its own, started, suffered through, stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftvm.demo.report import Report
from ftvm.demo.run import Options, run_demo
from ftvm.pair_process import PairFailed, PairProcess
from ftvm.say import Say

MACHINE = """\
# The machine of `ftvm demo`: the bundled driver VM with a disk of 64 MiB, and ways for its driver to die.
name = "demo"

[machine]
memory = "32 MiB"
kernel = "blockd"
cmdline = "crash=on"

[[disk]]
image = "disk0.img"
size = "64 MiB"

[service.block]
listen = ["unix:nbd.sock"]
vendor = true

[driver]
watchdog_ms = 500
"""


def run(directory: Path, options: Options, say: Say) -> Report:
    """Run the demo with its state in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    machine = directory / "demo.toml"
    machine.write_text(MACHINE)
    pair = PairProcess(machine, directory / "state")
    try:
        say.info("starting a pair")
        pair.start()
        say.info(f"protected; the service is at {pair.addresses[0]}")
        report = run_demo(pair, pair.addresses[0], options, say.info)
        if not report.passed:
            say.error("the latest lines of the pair:\n" + pair.log())
        if (code := pair.stop()) != 0:
            report = replace(report, problems=(*report.problems, f"the pair ended with code {code}"))
        return report
    except (PairFailed, TimeoutError) as failed:
        return Report(seed=options.seed, problems=(str(failed),))
    finally:
        pair.close()
