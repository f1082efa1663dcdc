# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log export`: a recording in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ftvm.commands.log_show import progress, range_options, told_divergence
from ftvm.commands.options import json_option, log_argument, machine_option, print_json

if TYPE_CHECKING:
    from ftvm.records.happening import ReplayedEpoch
    from ftvm.records.pcapng import CaptureWriter
    from ftvm.records.recording import Recording
    from ftvm.records.trace import TraceWriter

Add = Callable[["ReplayedEpoch"], object]
_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@log_argument
@click.option("--perfetto", type=_file, metavar="OUT", help="A trace: epochs, interrupts, packets, requests, console.")
@click.option("--pcap", type=_file, metavar="OUT", help="A capture (pcapng): packets in and out.")
@click.option("--status", type=_file, metavar="FILE", help="Samples of `ftvm status --json`: lag in the trace.")
@click.option("--replay/--no-replay", default=True, show_default=True, help="Run the guest again, to have its outputs.")
@range_options
@machine_option
@json_option
def export(
    log: Path, perfetto: Path | None, pcap: Path | None, status: Path | None, replay: bool, first: int,
    last: int | None, machine: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a recording as a trace for Perfetto, or its packets as a capture for Wireshark and tcpdump.

    Times in both are guest time: seconds since the guest's start. What the guest sent out, its interrupts and what it
    asked of its disks are not in a log, so the guest is run again, unless --no-replay says that what came in is enough.

    A log holds no time of the host, so it cannot tell how far a backup lagged behind. With --status, samples that
    `ftvm status NAME --json` printed while the pair ran, one after the other in a file, become tracks of the trace.

    Exit code 1 at damage or divergence; what was before is in the files.
    """
    from ftvm.records.recording import Recording

    if perfetto is None and pcap is None:
        raise click.UsageError("say what to write: --perfetto OUT, --pcap OUT, or both")
    if status is not None and perfetto is None:
        raise click.UsageError("--status is for --perfetto")
    with told_divergence(), Recording.open(log, machine) as recording, ExitStack() as open_files:
        traced = captured = None
        adds: list[Add] = []
        if perfetto is not None:
            traced = trace_writer(open_files.enter_context(new_file(perfetto)), recording, status)
            adds.append(traced.add)
        if pcap is not None:
            captured = capture_writer(open_files.enter_context(new_file(pcap)))
            adds.append(lambda epoch: [captured.add(each) for each in epoch.happenings])
        inside = traced is not None and replay
        _, tell = open_files.enter_context(progress(recording, replay, always=True))
        for epoch in recording.walk(first, last, replay=replay, interrupts=inside, disks=inside, progress=tell):
            for add in adds:
                add(epoch)
        if traced is not None:
            traced.close()
    report(
        {
            **({} if traced is None else {"perfetto": str(perfetto), "slices": traced.slices}),
            **({} if captured is None else {"pcap": str(pcap), "packets": captured.packets}),
        },
        as_json,
    )


def trace_writer(file: BinaryIO, recording: Recording, status: Path | None) -> TraceWriter:
    """A trace into a file."""
    from ftvm.records.lag import read_samples
    from ftvm.records.trace import TraceWriter

    samples = [] if status is None else read_samples(status)
    return TraceWriter(file, recording.header.pair or recording.path.stem, lag=samples)


def capture_writer(file: BinaryIO) -> CaptureWriter:
    """A capture into a file."""
    from ftvm import __version__
    from ftvm.records.pcapng import CaptureWriter

    return CaptureWriter(file, f"ftvm {__version__}")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; a failure of the disk is told in words."""
    from ftvm.cli import Failed

    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None


def report(written: dict[str, str | int], as_json: bool) -> None:
    """What is where."""
    if as_json:
        print_json(written)
        return
    if "perfetto" in written:
        click.echo(f"{written['perfetto']}: {written['slices']:,} slices and instants; open it at ui.perfetto.dev")
    if "pcap" in written:
        click.echo(f"{written['pcap']}: {written['packets']:,} packets")
