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
    click.echo("A whole Debian on a disk: `ftvm guest root DIR` makes it.")


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
@click.option("--package", "packages", multiple=True, help="Install this package too, with all that it depends on.")
@click.option("--size", default="1 GiB", show_default=True, help="Of the file system; the image is sparse.")
@click.option("--password", default="ftvm", show_default=True, help="Of root, on the console.")
@click.option("--hostname", default="debian", show_default=True, help="The guest's name.")
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Lay this directory's files over the packages' before they are configured; root will own them.",
)
@click.option("--refresh", is_flag=True, help="Look for newer versions, although all is there.")
@json_option
@log_json_option
def root(
    directory: Path,
    packages: tuple[str, ...],
    size: str,
    password: str,
    hostname: str,
    overlay: Path | None,
    refresh: bool,
    as_json: bool,
    log_json: bool,
) -> None:
    """Make DIR/debian.ext4: a small Debian for riscv64 with its stock init (systemd), to boot from a disk.

    For a machine file: DIR/vmlinux with DIR/initramfs.cpio.gz (fetched too when they are not there), cmdline
    "console=ttyS0 root=/dev/vda", 256 MiB, and a [[disk]] with image DIR/debian.ext4. Packages come from the mirror
    that this machine's apt sources name. Their scripts are run by a guest of ftvm: no privileges and no other emulator
    are needed, it takes some minutes, and the same versions give the same image. So keys that a package makes when it
    is installed are no secret (ssh's are: they are made at its first start). Asking again for the same is answered at
    once.
    """
    from ftvm.config_values import parse_size
    from ftvm.linux.debian import WantedRoot, make_root
    from ftvm.say import Say

    try:
        wanted = WantedRoot(packages, parse_size(size), password, hostname, overlay)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from None
    made = make_root(directory, wanted, Say("root", log_json), refresh)
    _show(directory, made.packages, made.sums, as_json)


@command.command()
@_directory
@json_option
def check(directory: Path, as_json: bool) -> None:
    """Compare what was brought to DIR with its SHA-256 sums. Exit code 1 when something is missing or differs."""
    from ftvm.linux.manifest import ROOT
    from ftvm.linux.manifest import check as compare

    found = compare(directory)
    packages, sums = found.packages, found.sums
    if (directory / ROOT.name).exists():
        made = compare(directory, ROOT)
        packages, sums = tuple(dict.fromkeys((*packages, *made.packages))), sums | made.sums
    _show(directory, packages, sums, as_json)


def _show(directory: Path, packages: tuple[str, ...], sums: dict[str, str], as_json: bool) -> None:
    if as_json:
        versions = dict(line.split("\t", 1) for line in packages)
        print_json({"directory": str(directory), "packages": versions, "files": sums})
        return
    for line in packages:
        click.echo(line.replace("\t", " "))
    for name, digest in sums.items():
        click.echo(f"{digest}  {directory / name}")
