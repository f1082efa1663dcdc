# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm guest`: the guests that come with the package, and those that Debian's packages bring."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import json_option, log_json_option, print_json

_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def command() -> None:
    """List the bundled guests, fetch stock ones, check what was fetched."""


@command.command(name="list")
@json_option
def list_guests(as_json: bool) -> None:
    """List the bundled guests: names for `machine.kernel`, and the boot arguments that each understands."""
    from ftvm.guests.catalog import GUESTS

    if as_json:
        print_json(
            [{"name": guest.name, "description": guest.description, "arguments": guest.arguments} for guest in GUESTS]
        )
        return
    for guest in GUESTS:
        click.echo(f"{guest.name:<10}{guest.description}")
        if guest.arguments:
            click.echo(f"{'':<10}cmdline: {guest.arguments}")
    click.echo("Stock Linux and U-Boot: `ftvm guest fetch DIR` brings them from Debian's packages.")


@command.command()
@_directory
@click.option("--package", "packages", multiple=True, help="Programs of this package too, with their libraries.")
@click.option("--module", "modules", multiple=True, help="Load this module of the kernel too, e.g. raid1.")
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Lay this directory's files over the initramfs.",
)
@click.option("--refresh", is_flag=True, help="Look for newer versions, although all is there.")
@json_option
@log_json_option
def fetch(
    directory: Path,
    packages: tuple[str, ...],
    modules: tuple[str, ...],
    overlay: Path | None,
    refresh: bool,
    as_json: bool,
    log_json: bool,
) -> None:
    """Bring Debian's stock riscv64 kernel, a busybox initramfs for it, and U-Boot, to DIR.

    For `machine.kernel`: DIR/vmlinux with `machine.initrd` DIR/initramfs.cpio.gz, or DIR/u-boot.bin. Packages come from
    the mirror that this machine's apt sources name, signatures checked; nothing is installed. About 120 MB.
    """
    from ftvm.linux.fetch import Wanted
    from ftvm.linux.fetch import fetch as bring
    from ftvm.say import Say

    made = bring(directory, Wanted(packages, modules, overlay), Say("fetch", log_json), refresh)
    _show(directory, made.packages, made.sums, as_json)


@command.command()
@_directory
@json_option
def check(directory: Path, as_json: bool) -> None:
    """Compare what was fetched to DIR with its SHA-256 sums. Exit code 1 when something is missing or differs."""
    from ftvm.linux.manifest import check as compare

    found = compare(directory)
    _show(directory, found.packages, found.sums, as_json)


def _show(directory: Path, packages: tuple[str, ...], sums: dict[str, str], as_json: bool) -> None:
    if as_json:
        versions = dict(line.split("\t", 1) for line in packages)
        print_json({"directory": str(directory), "packages": versions, "files": sums})
        return
    for line in packages:
        click.echo(line.replace("\t", " "))
    for name, digest in sums.items():
        click.echo(f"{digest}  {directory / name}")
