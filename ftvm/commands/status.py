# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm status`: what a pair is doing. Exit code 0 whenever that could be found out, also when nothing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftvm.commands.options import json_option, pair_options, print_json

_COLUMNS = ("side", "role", "pid", "sequence", "acked", "executed", "durable", "lag ms", "clock", "log B/s")
_FIELDS = ("role", "pid", "sequence", "acked", "executed", "durable", "lag_ms", "clock", "log_bytes_per_s")


@click.command()
@pair_options
@click.option("--acknowledge", is_flag=True, help="Clear the alarms that stand, and say which they were.")
@json_option
def command(name: str | None, state_dir: Path | None, acknowledge: bool, as_json: bool) -> None:
    """Show a pair: roles, terms, progress, alarms.

    Answers within a second whatever state the sides are in. Alarms that a side has raised stand until they are
    acknowledged; what is wrong at this moment is shown as long as it is wrong.
    """
    from ftvm.alarms import Alarms
    from ftvm.state_dir import find
    from ftvm.status import read_status

    state = find(name, state_dir)
    for alarm in Alarms(state.path).acknowledge() if acknowledge else ():
        click.echo(f"acknowledged: {alarm}", err=True)
    status = read_status(state)
    if as_json:
        print_json(status)
    else:
        click.echo(describe(status))


def describe(status: dict[str, Any]) -> str:
    """The status for people."""
    protection = "protected" if status["protected"] else "NOT protected"
    if status["primary"] is None:
        follows = any(side["role"] in ("backup", "joining") for side in status["sides"].values())
        protection = "no primary on this host" if follows else "not running"
    lines = [f"{status['name']}: term {status['term']}, {protection}"]
    lines += [f"  alarm: {alarm}" for alarm in status["alarms"]]
    lines += [f"  serves {address}" for address in status["services"]]
    rows = [_COLUMNS, *((side, *(_cell(shown[key]) for key in _FIELDS)) for side, shown in status["sides"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [line for side, shown in status["sides"].items() for line in _networks(side, shown)]
    return "\n".join(line.rstrip() for line in lines)


def _networks(side: str, shown: dict[str, Any]) -> list[str]:
    """One line for each network of a side that lives."""
    networks = shown.get("networks")
    if shown["pid"] is None or not isinstance(networks, list):
        return []
    lines = []
    for network in networks:
        state = "attached" if network.get("attached") else "detached"
        why = f" ({network['problem']})" if network.get("problem") else ""
        counts = ", ".join(f"{_cell(network.get(count))} {count}" for count in ("sent", "received", "dropped"))
        lines.append(f"  {side} network {network.get('unit')} {network.get('backend')}: {state}{why}, {counts}")
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
