# SPDX-License-Identifier: GPL-2.0-or-later
"""The process of one side: a member of a pair with real sockets, disks, clocks and signals.

One thread runs the guest and everything else. While this side follows, a second thread receives entries and
acknowledges them at once, whatever the guest is doing; both hold the backup's lock while they touch the channel.
The exit code (`ExitCode`) tells a launcher what to do next.
"""

from __future__ import annotations

import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from ftvm.alarms import Alarms
from ftvm.checkpointing import SIZE_MAX, Changes, Keep
from ftvm.config import MachineConfig
from ftvm.config_keys import load_keys
from ftvm.config_text import to_toml
from ftvm.disk.errors import DiskFailure
from ftvm.disk.metadata import ImageLedger
from ftvm.image import load_image
from ftvm.machine import ENGINE, Machine
from ftvm.pair.backup import Backup
from ftvm.pair.cold_start import arbiter_of
from ftvm.pair.debug_door import DebugDoor
from ftvm.pair.disks import SideDisks
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.link import LinkState
from ftvm.pair.member import DIVERGENCE, Member, Parts, Role
from ftvm.pair.post_mortem import KEPT_AS, keep_diverged
from ftvm.pair.ram_feed import FeedThread
from ftvm.pair.scheduling import ask_for_short_slices
from ftvm.pair.services import ServiceError, addresses, open_services
from ftvm.pair.side_log import turn_over
from ftvm.recording import Recording, header_of, keep_aside
from ftvm.say import Say
from ftvm.service.block_server import BlockServer
from ftvm.service.export import Export
from ftvm.state_dir import StateDir
from ftvm.status import StatusWriter
from ftvm.world.console import NoConsole, open_console
from ftvm.world.host import HostWorld
from ftvm.world.network.network import make_network
from ftvm.world.network.passt import PasstKeeper
from ftvm.world.network.port import Port, Ports
from ftvm.world.poller import Poller
from logging_channel.endpoint import Endpoint
from logging_channel.errors import ChannelError
from logging_channel.transport import Dialer, Listener
from replay.errors import LogError

RECEIVER_S = 5.0  # for the receiving thread to notice that this side ends


SWITCH_S = 1e-4  # an entry is acknowledged, and the guest goes on, although another thread is inside Python


class ExitCode(IntEnum):
    """How a side's process ended."""

    DONE = 0  # the guest ended, or an operator stopped the pair
    FAILED = 1  # told in words on stderr
    FENCED = 3  # the arbiter granted the term to the other side
    LEFT = 4  # gave up on its own: disk failure, lost the primary before it was in sync, divergence
    GUEST_FAILED = 5  # the guest failed, and is not to be restarted


@dataclass(frozen=True, slots=True)
class Origin:
    """A state that another recording has reached, from which a machine goes on; its disks are in place already."""

    sections: Sequence[tuple[str, bytes]]
    notes: Mapping[str, str]  # for the header of the recording


@dataclass(frozen=True, slots=True)
class Options:
    """How a side is to run."""

    member: str
    join: str | None = None  # the primary's address; None: be the primary
    listen: str | None = None  # instead of the machine file's pair.listen
    services: Sequence[socket.socket] = ()  # listening sockets of the block service
    own_services: bool = False  # open the block service's sockets here, on going live, instead of inheriting them
    record: Path | None = None
    checkpoints: int = SIZE_MAX  # bytes that they may take beside the recording; 0: none
    open_at_once: bool = False  # open the services before a backup is in sync
    alone: bool = False  # take no backup
    last_term: int | None = None  # the arbiter's latest when this side's images were found to be the newest
    origin: Origin | None = None  # begin here instead of at power-on


class Side:
    """Builds a member from a state directory and runs it."""

    def __init__(self, state: StateDir, config: MachineConfig, options: Options, say: Say) -> None:
        self.options = options
        self._say = say
        self._config = config
        self._state = state
        self._services = list(options.services)
        self._late = options.own_services and config.service_block is not None
        self._service_trouble = ""
        self._keys = load_keys(config)
        self._poller = Poller()
        self._stopping = self._closing = False
        self._receiver: threading.Thread | None = None
        self._listen_trouble = ""
        self._told: tuple[Role, bool] | None = None
        self._image = load_image(config)
        self._disks = SideDisks(config, state, options.member)
        self._disks.watch(self._poller, lambda: None)
        self._machine = Machine(config, self._image, self._disks.images)
        if options.origin is not None:
            self._machine.restore(list(options.origin.sections))
        self._block = _block_server(config, options.services)
        self._ports = self._make_ports()
        self._world = HostWorld(
            self._poller, lambda: self._console(state), self._block, self._notice, self._open_services, self._ports
        )
        self.chores: list[Callable[[], None]] = []  # what else is to be looked after every now and then
        self._recording: Recording | None = None
        self._changes: Changes | None = (
            None  # since this side follows, for the checkpoints of a recording it goes on with
        )
        self._door: DebugDoor | None = None
        self._door_trouble = ""
        self._status = StatusWriter(state, options.member, config.name, background=True)
        self._arbiter = arbiter_of(config, state)
        self._ledger = ImageLedger(state.side(options.member), config.name)
        self.notices: list[str] = []
        self.member = Member(self._parts())

    def _parts(self) -> Parts:
        config = self._config
        return Parts(
            identity=Identity(
                config.name, self.options.member, config.digest(), tuple(sorted(self._image.digests.items())), ENGINE
            ),
            timing=Timing(config.pair.heartbeat_ms, config.pair.timeout_ms),
            machine=self._machine,
            disks=self._disks.images,
            world=self._world,
            arbiter=self._arbiter,
            clock=time.perf_counter,
            new_session=lambda: secrets.randbits(63) | 1,
            listen=self._listen,
            durable=self._disks.durable,
            sync=self._disks.sync,
            ledger=self._ledger,
            open_recording=self._open_recording if self.options.record is not None else None,
            say=self._say.info,
            alarm=self._alarm,
            open_at_once=self.options.open_at_once,
            feed=lambda: FeedThread(self._poller.wake),
        )

    def _alarm(self, text: str) -> None:
        """Raise it; where this side's recording can tell more about it, with how to ask."""
        if text.startswith(DIVERGENCE) and self.options.record is not None:
            kept = self._state.path / "?" / f"{KEPT_AS}*.log"
            text += f"; what differs is told by: ftvm log diff {self.options.record} {kept}"
        Alarms(self._state.path).sound(self.options.member, text)

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Be a member until there is nothing more to do."""
        ask_for_short_slices()
        try:
            if self.options.join is None:
                self._begin_as_primary()
            else:
                self._begin_as_joiner(self.options.join)
            self._loop()
            self._keep_diverged()
        except (DiskFailure, LogError) as error:
            self._give_up(str(error))
            return ExitCode.LEFT
        finally:
            self._close()
        return self._exit_code()

    def _keep_diverged(self) -> None:
        """The two sides differ: keep this one's machine for whoever looks into it, as a log that begins with it."""
        backup = self.member.backup
        if backup is None or not backup.diverged:
            return
        header = header_of(self._config, self._image, to_toml(self._config).encode())
        try:
            path = keep_diverged(self._state.side(self.options.member), header, self._machine)
        except (LogError, OSError) as error:
            self._say.error(f"this side's state cannot be kept: {error}")
            return
        self._say.warning(f"this side's machine after entry {self._machine.sequence} is kept in {path}")

    def stop(self) -> None:
        """An operator wants this side to end; safe to call from a signal handler."""
        self._stopping = True
        self._poller.wake()

    def _begin_as_primary(self) -> None:
        last = self.options.last_term
        if last is None:
            latest = self._arbiter.latest()
            last = 0 if latest is None else latest.term
        term = last + 1
        me = self.options.member
        grant = self._arbiter.acquire(term, me, (me,))
        if grant.winner != me:
            raise ChannelError(f"term {term} was granted to member {grant.winner} at the same moment")
        self._say.info(f"member {me} is primary in term {term}", term=term)
        self.member.start_primary(term)

    def _begin_as_joiner(self, address: str) -> None:
        dialer = Dialer(address, self._keys)
        backup = self.member.start_joining(dialer)
        self.member.threaded = True
        sys.setswitchinterval(SWITCH_S)
        backup.on_work = self._poller.wake
        self._receiver = threading.Thread(target=self._receive, args=(dialer, backup), name="receiver", daemon=True)
        self._receiver.start()

    def _receive(self, dialer: Endpoint, backup: Backup) -> None:
        """The receiving thread: acknowledge at once, whatever the guest is doing.

        Whatever goes wrong in it is this side's failure: one that has become deaf would suspect a healthy primary.
        """
        member = self.member
        interval = self._config.pair.heartbeat_ms / 2e3
        try:
            while member.backup is backup and not (member.over or self._closing):
                select.select([dialer.fileno()], [], [], interval)
                with backup.lock:
                    if member.backup is not backup:
                        return
                    now = time.perf_counter()
                    member.drain_dialer(now)
                    backup.tick(now)
        except Exception as error:
            backup.fail(f"this side cannot follow the primary any more: {type(error).__name__}: {error}")

    def _loop(self) -> None:
        member, poller = self.member, self._poller
        while not member.over:
            now = time.perf_counter()
            wait = member.step(now)
            self._mind_door()
            if self._stopping:
                self._stop_in_order()
            if self._recording is not None and not member.over:
                self._recording.tick(now)
            if self._status.due(time.monotonic()) or self._changed():
                self._housekeep()
            poller.wait(0.0 if wait <= 0 else wait)
        self._housekeep()

    def _changed(self) -> bool:
        """Whether a launcher waits for what the status is to say: who is live, and where a joiner finds it."""
        member = self.member
        told, self._told = self._told, (member.role, member.listener is not None)
        return told != self._told

    def _stop_in_order(self) -> None:
        self._stopping = False
        if self.member.role is Role.PRIMARY:
            self.member.stop()
        elif self.member.backup is not None:
            self.member.backup.leave("its operator stopped it")
            self.member.leave("stopped by its operator")

    def _housekeep(self) -> None:
        self._disks.check()
        self._follow_changes()
        self._hang_up()
        turn_over(self._state.side(self.options.member))
        if self._block is not None:
            self._block.tick(time.monotonic())
        for chore in self.chores:
            chore()
        if self._late and self._world.opened:
            self._open_services()
        self._status.update(time.monotonic(), **self.report())

    def _mind_door(self) -> None:
        """A backup in sync can be looked at; who is live, or not there yet, cannot."""
        door, member = self._door, self.member
        if door is not None:
            if member.role is Role.BACKUP:
                self._let_look(door)
            else:
                self._door = None
                door.close(f"this side is {member.role.value} now")
        elif member.role is Role.BACKUP and not self._door_trouble and member.backup is not None:
            try:
                self._door = DebugDoor(
                    self._state.side(self.options.member),
                    self._machine,
                    self._disks.images,
                    self._poller.wake,
                    self._say.info,
                    history=self._config.pair.history,
                )
                member.backup.on_executed = self._door.executed
            except OSError as error:
                self._door_trouble = str(error)
                self._say.warning(f"debuggers cannot look at this side: {error}")

    def _let_look(self, door: DebugDoor) -> None:
        """Whatever goes wrong there, but a failing disk, is no reason to stop following the primary."""
        try:
            door.boundary()
        except DiskFailure:
            raise
        except Exception as error:
            self._door_trouble = f"{type(error).__name__}: {error}"
            self._door = None
            door.close(self._door_trouble)
            self._say.warning(f"debuggers cannot look at this side any more: {self._door_trouble}")

    def _follow_changes(self) -> None:
        if self._keep is not None and self._changes is None and self.member.role is Role.BACKUP:
            self._changes = Changes(self._machine, self._disks.images)

    @property
    def _keep(self) -> Keep | None:
        wanted = self.options.record is not None and self.options.checkpoints > 0
        return Keep(self.options.checkpoints, self._say.warning) if wanted else None

    def _hang_up(self) -> None:
        """Once live, call the old primary's address no longer: this side itself may listen there by now."""
        member = self.member
        thread_ended = self._receiver is not None and not self._receiver.is_alive()
        if thread_ended and member.role is Role.PRIMARY and member.dialer is not None:
            member.dialer.close()
            member.dialer = None

    def report(self) -> dict[str, Any]:
        """What the status file says of this side."""
        member = self.member
        link, live, backup = member.link, member.live, member.backup
        fields: dict[str, Any] = {
            "role": member.role.value,
            "term": member.term,
            "sequence": member.executed,
            "executed": member.executed,
            "clock": self._machine.clock,
            "driver_restarts": self._machine.supervisor.restarts,
            "why": member.why,
            "finished": member.finished,
            "failure": self._machine.failure,
            "record": str(self.options.record) if self.options.record is not None else None,
            "networks": self._ports.report(),
            "service_fds": [sock.fileno() for sock in self._services],
        }
        if live is not None and link is not None:
            sender = link.sender
            fields |= {
                "protected": link.state is LinkState.PROTECTED,
                "acked": sender.received if sender is not None else 0,
                "durable": self._disks.durable(live.executed),
                "lag_ms": round(link.lag_ms, 3),
                "channel": member.listener.address if member.listener is not None else None,
                "services": [] if self._late else addresses(self._config, self._state, self._services),
                "pause_ms": round(link.pause_s * 1e3, 3),
                "joining": link.progress(),
                "log_bytes": link.sent_bytes,
                "commit_delay_us": member.gate.delays.report() if link.in_sync else None,
                "durable_delay_us": member.gate.durable_delays.report() if link.in_sync else None,
            }
        elif backup is not None:
            fields |= {
                "acked": backup.receiver.acked,
                "durable": backup.receiver.durable,
                "lag_ms": 0.0,
                "progress": backup.state.value,
            }
        return fields

    # -- pieces -------------------------------------------------------------------------------------------------

    def _make_ports(self) -> Ports:
        ports = {}
        for unit, (table, card) in enumerate(zip(self._config.network, self._machine.hardware.networks, strict=True)):
            network = make_network(table.backend, unit, self._state.path, self._poller)
            if network is not None:
                ports[unit] = Port(unit, str(table.backend), card, network, self._say.warning)
        return Ports(ports)

    def _listen(self) -> Endpoint | None:
        if self.options.alone:
            return None
        address = self.options.listen or str(self._config.pair.listen)
        try:
            listener = Listener(address, self._keys)
        except ChannelError as error:
            if str(error) != self._listen_trouble:
                self._listen_trouble = str(error)
                self._say.warning(f"cannot listen for a backup yet: {error}")
            return None
        self._poller.watch(listener.fileno(), True, False, lambda *_: None)
        self._say.info(f"taking a backup at {listener.address.removeprefix('tcp://')}", channel=listener.address)
        return listener

    def _open_services(self) -> None:
        """This side is live: open the sockets that it has not inherited; `_housekeep` asks again when one is taken."""
        if self._late:
            try:
                self._services = open_services(self._config, self._state)
            except ServiceError as error:
                if str(error) != self._service_trouble:
                    self._service_trouble = str(error)
                    self._say.warning(f"not serving clients yet: {error}")
                return
            assert self._block is not None
            self._late = False
            self._block.listen(self._services)
        if found := addresses(self._config, self._state, self._services):
            self._say.info(f"serving clients at {', '.join(found)}", services=found)

    def _console(self, state: StateDir) -> Any:
        continues = self.options.join is not None  # the stream that a primary before this one began
        try:
            return open_console(self._config.console.backend, state.path, self._poller, fresh=not continues)
        except OSError as error:
            if not continues:
                raise
            self.member.alarm(f"the guest has no console from here on, the backend cannot be opened: {error}")
            return NoConsole()

    def _open_recording(self) -> Recording:
        path, machine, origin = self.options.record, self._machine, self.options.origin
        assert path is not None
        notes = None if origin is None else origin.notes
        header = header_of(self._config, self._image, to_toml(self._config).encode(), notes)
        if machine.sequence == 0 or origin is not None:
            if (aside := keep_aside(path)) is not None:
                self._say.info(f"{path} holds an earlier recording: kept as {aside}")
            self._recording = Recording.begin(
                path, header, machine, self._disks.images, True, self.member.alarm, self._keep
            )
        else:
            self._recording = Recording.go_on(
                path, header, machine, self._disks.images, self.member.alarm, self._keep, self._changes
            )
        if self._keep is not None:
            sys.setswitchinterval(SWITCH_S)
        return self._recording

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        self._say.warning(text)

    def _give_up(self, text: str) -> None:
        self._say.error(text)
        if self.member.backup is not None:
            self.member.backup.leave(text)
        self.member.leave(text)
        self._status.update(time.monotonic(), **self.report())

    def _exit_code(self) -> ExitCode:
        if self.member.role is Role.FENCED:
            return ExitCode.FENCED
        if self.member.backup is not None and self.member.backup.unfit:
            return ExitCode.FAILED
        if not self.member.finished:
            return ExitCode.LEFT
        return ExitCode.GUEST_FAILED if self._machine.failure else ExitCode.DONE

    def _close(self) -> None:
        member = self.member
        self._closing = True
        if self._door is not None:
            self._door.close("this side ends")
        if self._receiver is not None:
            self._receiver.join(RECEIVER_S)  # two threads must not be in one socket
        if member.link is not None:
            member.link.close()
        if self._recording is not None:
            if member.superseded:
                self._recording.abandon()
            else:
                self._recording.close()
        for endpoint in (member.listener, member.dialer):
            if endpoint is not None:
                endpoint.close(linger_ms=200)
        self._world.close()
        self._disks.close()
        if member.finished and self._state.launcher_process() is None:
            PasstKeeper(self._config, self._state.path, self._say.warning).stop()  # nobody else is left to do it


def _block_server(config: MachineConfig, services: Sequence[socket.socket]) -> BlockServer | None:
    block = config.service_block
    if block is None:
        return None
    size = block.size or config.disk[block.disk].size
    assert size is not None
    return BlockServer(services, Export(size, config.name, vendor=block.vendor))
