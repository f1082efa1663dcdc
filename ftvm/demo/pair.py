# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's own pair: a machine file of its own, started, suffered through, stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftvm.demo.kills import WAYS_OF_LINUX
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


LINUX = """\
# The machine of `ftvm demo --guest linux`: Debian's stock kernel with its own virtio drivers, and ways for it to die.
name = "demo"

[machine]
memory = "128 MiB"
kernel = "{guests}/vmlinux"
initrd = "{guests}/initramfs.cpio.gz"
cmdline = "{cmdline}"

[[disk]]
image = "disk0.img"
size = "64 MiB"

[service.block]
listen = ["unix:nbd.sock"]
vendor = true

[driver]
watchdog_ms = 3000
"""
# A kernel that has panicked resets the machine at once; a boot without self-tests and needless modules is short.
LINUX_CMDLINE = (
    "console=ttyS0 quiet panic=-1 init_on_alloc=0 cryptomgr.notests modules=virtio_mmio,virtio_blk "
    "serve=/dev/vda crash=on"
)


def linux_machine(guests: Path) -> str:
    """The machine file for the stock guests in `guests`."""
    return LINUX.format(guests=guests.absolute(), cmdline=LINUX_CMDLINE)


def linux_options(options: Options) -> Options:
    """The same with time for kernels to boot: three times for each kill of a driver."""
    return replace(options, ways=WAYS_OF_LINUX, seconds_max=600.0, step_s_max=180.0)


def run(directory: Path, options: Options, say: Say, machine_text: str = MACHINE) -> Report:
    """Run the demo with its state in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    machine = directory / "demo.toml"
    machine.write_text(machine_text)
    pair = PairProcess(machine, directory / "state")
    try:
        say.info("starting a pair")
        pair.start(options.step_s_max)
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
