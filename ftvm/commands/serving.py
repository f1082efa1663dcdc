# SPDX-License-Identifier: GPL-2.0-or-later
"""A debugger served from a command: listen first, so that a taken address is told at once; then serve."""

from __future__ import annotations

import click

from ftvm.debugger import Debugger
from ftvm.say import Say
from replay.gdb.server import Server


def listen(say: Say, door: str) -> Server:
    """The server at [HOST:]PORT; ends the command when that is no such address, or is taken."""
    host, _, port = door.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--gdb {door}: it is [HOST:]PORT, as in 127.0.0.1:1234")
    try:
        return Server(host.strip("[]") or "127.0.0.1", int(port), say.info)
    except OSError as error:
        say.error(f"cannot listen at {door}: {error.strerror}")
        raise click.exceptions.Exit(1) from None


def serve(say: Say, server: Server, debugger: Debugger) -> None:
    """Until SIGINT or SIGTERM; a debugger that is connected then is left alone until it goes."""
    name, number = server.address
    address = f"[{name}]:{number}" if ":" in name else f"{name}:{number}"
    say.info(f"{len(debugger.timeline.entries)} entries; waiting for GDB: target remote {address}")
    try:
        server.serve(debugger)
    except KeyboardInterrupt:
        say.info("interrupted")
    finally:
        server.close()
