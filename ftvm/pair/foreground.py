# SPDX-License-Identifier: GPL-2.0-or-later
"""One side in the process of the command that was called: `ftvm run`, `ftvm primary`, `ftvm backup`.

Unlike the sides of `ftvm pair` it has a terminal, and no launcher that fences it: what keeps it from being live beside
another side is the arbiter alone. SIGTERM and Ctrl-C end it in order, a second one changes nothing. SIGKILL leaves no
child behind, since there is none.
"""

from __future__ import annotations

import gc
import signal
import time

from ftvm.arbiter.arbiter import ArbiterUnavailable
from ftvm.config import MachineConfig
from ftvm.config_error import ConfigError
from ftvm.config_values import parse_tcp
from ftvm.live import seconds
from ftvm.machine import EpochEnd
from ftvm.pair.cold_start import arbiter_of
from ftvm.pair.member import Member
from ftvm.pair.side import ExitCode, Options, Side
from ftvm.say import Say
from ftvm.state_dir import StateDir
from ftvm.world.network.check import check_networks
from ftvm.world.network.passt import PasstKeeper

ASK_AGAIN_S = 0.1


def run_foreground(state: StateDir, config: MachineConfig, options: Options, say: Say) -> int:
    """Run a side until it ends; returns the command's exit code. Raises what a command tells in words."""
    lock = state.lock_side(options.member)
    passt = PasstKeeper(config, state.path, say.warning, one_off=True)
    try:
        check_networks(config, state.path, say.warning, joins=options.join is not None)
        passt.start()
        side = Side(state, config, options, say)
        side.chores.append(passt.tick)
        asked: list[int] = []

        def stop(number: int, frame: object) -> None:
            asked.append(number)
            side.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        # What was built lives as long as the process: a collection in mid-load would look at it again and again.
        gc.collect()
        gc.freeze()
        began = time.perf_counter()
        code = side.run()
        say.info(summary(side.member, time.perf_counter() - began))
        if in_order(side.member, code, bool(asked)):
            return 0
        say.error(last_word(side.member, code))
    except OSError as error:
        say.error(str(error))
    finally:
        passt.stop()
        lock.release()
    return 1


def in_order(member: Member, code: ExitCode, asked: bool) -> bool:
    """Whether all is well: the guest ended and has not failed, or a side that was never live left when asked to."""
    if code is ExitCode.DONE:
        return how_it_ended(member) is not EpochEnd.FAILED
    return code is ExitCode.LEFT and asked and member.live is None


def last_word(member: Member, code: ExitCode) -> str:
    """Why the exit code is not 0."""
    if code is ExitCode.FENCED:
        return f"this side is fenced: {member.why}. It may join again with `ftvm backup`"
    if how_it_ended(member) is EpochEnd.FAILED:
        return f"the guest has failed: {member.parts.machine.failure}"
    return f"this side has left the pair: {member.why}"


def how_it_ended(member: Member) -> EpochEnd | None:
    """How the guest ended, None when this side did not see it."""
    if member.live is not None:
        return member.live.end
    return None if member.backup is None else member.backup.end


def summary(member: Member, elapsed: float) -> str:
    """One line on what was run, in `elapsed` seconds of the host."""
    machine = member.parts.machine
    guest = seconds(machine.time)
    speed = f"{machine.clock / max(elapsed, 1e-9) / 1e6:,.1f} MB of code a second"
    return (
        f"{member.executed:,} entries, {guest:.3f} s of guest time in {elapsed:.3f} s, clock {machine.clock:,}, {speed}"
    )


def check_address(address: str | None, option: str, config: MachineConfig) -> None:
    """ConfigError when `address` is none, or can be reached from other hosts and there are no keys."""
    if address is None:
        return
    try:
        tcp = parse_tcp(address.removeprefix("tcp://"))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    if config.pair.keys is None and not tcp.loopback:
        raise ConfigError(
            f"{option}: {address} can be reached from other hosts: make keys with `ftvm machine keys FILE`, copy the "
            "file to both hosts, and name it in the machine file as pair.keys"
        )


def await_arbiter(config: MachineConfig, state: StateDir, say: Say) -> None:
    """Return once the arbiter is there and has granted a term: before that there is no primary to join."""
    arbiter, told = arbiter_of(config, state), ""
    while True:
        try:
            if arbiter.latest() is not None:
                return
            why = f"no term was granted in {arbiter.path} yet: is it the directory that the primary uses?"
        except ArbiterUnavailable as error:
            why = str(error)
        if why != told:
            told = why
            say.warning(f"waiting for the primary: {why}")
        time.sleep(ASK_AGAIN_S)
