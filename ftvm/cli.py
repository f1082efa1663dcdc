# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `ftvm`: a table of subcommands, one module each, imported when it is called for.

To add a subcommand: write `ftvm/commands/NAME.py` with a click command called `command`, and add a line to COMMANDS.

Exit codes, of every subcommand:
    0   done, and all is well
    1   failed, or what was checked is not in order; standard error says why
    2   wrong usage
    130 ended by Ctrl-C before there was anything to end cleanly
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from ftvm import __version__

COMMANDS = {
    "demo": "Kill a pair again and again under load, and verify every block.",
    "pair": "Run a primary/backup pair on this host.",
    "run": "Run one virtual machine without a backup.",
    "primary": "Be the primary of a pair on two hosts.",
    "backup": "Join a pair's primary on another host, and follow it.",
    "stop": "End a pair, or a machine run alone, in order.",
    "replay": "Run a recording again, and verify it; or debug it.",
    "debug": "Look into a running pair, which does not notice.",
    "checkpoint": "Make a recording open at once, anywhere.",
    "last-write": "Find who wrote a place in a recorded guest's memory.",
    "machine": "Write an example machine file, check one, make keys.",
    "status": "Show a pair: roles, terms, progress, alarms.",
    "log": "Look into a recording.",
    "report": "Write a recording as a page for a browser.",
    "disk": "Copy a stopped pair's disk out.",
    "guest": "List the bundled guests, fetch stock ones, check what was fetched.",
}

# Failures that are told in one line, by module, so that none of them is imported before it is needed.
_TOLD = {
    "ftvm.config_error": "ConfigError",
    "ftvm.state_dir": "StateDirError",
    "ftvm.image": "ImageError",
    "ftvm.linux.errors": "FetchError",
    "ftvm.disk.errors": "DiskRefused",
    "ftvm.pair.services": "ServiceError",
    "ftvm.arbiter.arbiter": "ArbiterError",
    "replay.errors": "LogError",
    "logging_channel.errors": "ChannelError",
}


class Failed(click.ClickException):
    """A command has failed in an expected way: the message is printed, the exit code is 1."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        """Each line to standard error."""
        click.echo(f"ftvm: {self.format_message()}", err=True)


class Commands(click.Group):
    """Subcommands by name from COMMANDS; `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"ftvm.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Turn failures that have words for themselves into those words."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if "FTVM_TRACEBACK" not in os.environ and is_told(error):
                raise Failed(str(error)) from None
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ftvm")
def main() -> None:
    """A fault-tolerant pair of emulated virtual machines that hosts a device driver.

    Exit codes: 0 all is well, 1 failed (standard error says why), 2 wrong usage.
    """


def is_told(error: Exception) -> bool:
    """Whether an error has words for whoever called a command."""
    for module, name in _TOLD.items():
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


if __name__ == "__main__":
    main()
