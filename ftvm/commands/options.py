# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands share, so that they are called and mean the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

symbols_option = click.option(
    "--symbols",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Names of functions and variables from this ELF file, kernel or System.map, instead of the recorded kernel.",
)

Function = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
log_json_option = click.option("--log-json", is_flag=True, help="Log structured lines (JSON) to standard error.")
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The pair's state directory, instead of the one that follows from its name.",
)
machine_argument = click.argument("machine", metavar="MACHINE.toml", type=click.Path(path_type=Path, dir_okay=False))

log_argument = click.argument("log", type=click.Path(path_type=Path, dir_okay=False))
machine_option = click.option(
    "--machine",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this machine file instead of the recorded one, say because the kernel lies elsewhere now.",
)

listen_option = click.option(
    "--listen", metavar="ADDRESS", help="Take a backup here (HOST:PORT), instead of at the machine file's pair.listen."
)


def _checkpoints(context: click.Context, option: click.Parameter, text: str) -> int:
    from ftvm.config_values import parse_size

    try:
        return 0 if text == "none" else parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, or none") from None


checkpoints_option = click.option(
    "--checkpoints",
    metavar="SIZE",
    default="256 MiB",
    show_default=True,
    callback=_checkpoints,
    help="With --record: room for LOG.ckpt, by which the recording opens anywhere at once; none: without.",
)


def pair_options(function: Function) -> Function:
    """NAME or --state-dir: an existing pair (see `ftvm.state_dir.find`)."""
    return click.argument("name", required=False)(state_dir_option(function))


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, default=str))
