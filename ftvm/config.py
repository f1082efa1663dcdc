# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine file: a pair's name, its guest, its devices, its services, and how the two sides reach each other.

TOML through pydantic models, one model a table. Unknown names are refused, nearly everything has a default, and every
message names the file and the field:

    disk0.toml: machine.memory: "64 MB" is not a size; write e.g. "64 MiB" (units: B, KiB, MiB, GiB, TiB)

The file says two kinds of things. What the guest can see (memory, command line, devices, the rules by which its driver
is restarted) must be equal on both sides of a pair and in a replay: `MachineConfig.agreed` is its one canonical form.
Paths, addresses and time limits of the pair are each side's own affair and stay out of it.

Relative paths are relative to the state directory; those of files that must exist (kernel, initrd, keys) are relative
to the machine file. `MachineConfig.settled` writes down what a file left to its surroundings, so that the copy kept in
the state directory means the same wherever it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ftvm import board
from ftvm.config_error import ConfigError, Fields, describe, show
from ftvm.config_kernel import is_bundled, resolve
from ftvm.config_values import (
    Address,
    Backend,
    Forward,
    TcpAddress,
    format_size,
    parse_address,
    parse_backend,
    parse_forward,
    parse_mac,
    parse_network,
    parse_path,
    parse_size,
    parse_tcp,
)

FILE_SIZE_MAX = 1 << 20
CMDLINE_MAX = 1023  # Linux on RISC-V keeps 1,024 bytes, the last one a zero
SECTOR = 512
DISK_MAX = 16 << 40
AGREED_FORMAT = 3
DEFAULT_MAC = bytes.fromhex("525400123456")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a string")
    return value


def _size(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f'{show(value)} is not a size; write it as a string with its unit, e.g. "64 MiB"')
    return parse_size(value)


Size = Annotated[int, BeforeValidator(_size)]
FilePath = Annotated[str, BeforeValidator(lambda value: parse_path(_text(value)))]
Tcp = Annotated[TcpAddress, PlainValidator(lambda value: parse_tcp(_text(value)))]
AnyAddress = Annotated[Address, PlainValidator(lambda value: parse_address(_text(value)))]
ConsoleBackend = Annotated[
    Backend, PlainValidator(lambda value: parse_backend(_text(value), ("stdio", "none"), ("file", "unix")))
]
NetworkBackend = Annotated[Backend, PlainValidator(lambda value: parse_network(_text(value)))]
PortForward = Annotated[Forward, PlainValidator(lambda value: parse_forward(_text(value)))]
ArbiterBackend = Annotated[Backend, PlainValidator(lambda value: parse_backend(_text(value), (), ("file",)))]
Mac = Annotated[bytes, BeforeValidator(lambda value: parse_mac(_text(value)))]


class _Table(BaseModel):
    """A table of the file: unknown names refused, no silent conversion between types, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MachineTable(_Table):
    """[machine]: the computer itself."""

    memory: Size = 64 << 20
    kernel: FilePath = "blockd"
    initrd: FilePath | None = None
    cmdline: str = ""
    seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] = 0

    @field_validator("memory")
    @classmethod
    def _memory(cls, size: int) -> int:
        if not board.MEMORY_MIN <= size <= board.MEMORY_MAX or size % 4096:
            low, high = format_size(board.MEMORY_MIN), format_size(board.MEMORY_MAX)
            raise ValueError(f"{format_size(size)} is not a multiple of 4 KiB between {low} and {high}")
        return size

    @field_validator("cmdline")
    @classmethod
    def _cmdline(cls, text: str) -> str:
        if "\0" in text or len(text.encode()) > CMDLINE_MAX:
            raise ValueError(f"must be at most {CMDLINE_MAX} bytes, none of them zero")
        return text


class DiskTable(_Table):
    """[[disk]]: one virtio block device."""

    image: FilePath
    size: Size | None = None
    mode: Literal["replicated"] = "replicated"

    @field_validator("size")
    @classmethod
    def _disk_size(cls, size: int | None) -> int | None:
        return None if size is None else check_disk_size(size)


class NetworkTable(_Table):
    """[[network]]: one virtio network device."""

    backend: NetworkBackend = Backend("none")
    mac: Mac | None = None
    forward: Annotated[tuple[PortForward, ...], Field(strict=False)] = ()

    @field_validator("forward")
    @classmethod
    def _forward(cls, forward: tuple[Forward, ...], info: ValidationInfo) -> tuple[Forward, ...]:
        backend = info.data.get("backend")
        if forward and backend is not None and backend != Backend("passt"):
            raise ValueError(f'is for backend = "passt", not for "{backend}"')
        return forward


class ConsoleTable(_Table):
    """[console]: where the UART's stream goes on the host."""

    backend: ConsoleBackend = Backend("file", "console.log")


class BlockServiceTable(_Table):
    """[service.block]: the disk that the driver serves to NBD clients."""

    disk: Annotated[int, Field(ge=0)] = 0
    size: Size | None = None
    listen: Annotated[tuple[AnyAddress, ...], Field(strict=False)] = (parse_address("unix:nbd.sock"),)
    vendor: bool = False

    @field_validator("size")
    @classmethod
    def _export_size(cls, size: int | None) -> int | None:
        return None if size is None else check_disk_size(size)

    @field_validator("listen")
    @classmethod
    def _listen(cls, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        texts = [str(address) for address in addresses if str(address).rpartition(":")[2] != "0"]
        if not addresses:
            raise ValueError('names no address; write e.g. ["unix:nbd.sock"]')
        if len(set(texts)) != len(texts):
            raise ValueError("names an address twice")
        return addresses


class ServiceTable(_Table):
    """[service]: what clients reach from outside."""

    block: BlockServiceTable | None = None


class DriverTable(_Table):
    """[driver]: when the guest counts as dead, and what then."""

    watchdog_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 2000
    boot_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 60_000
    restart: bool | None = None
    panic: Annotated[str, Field(max_length=100)] = "Kernel panic - not syncing"

    @field_validator("panic")
    @classmethod
    def _panic(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("must be printable: it is looked for at the beginning of a line of the console")
        return text


class PairTable(_Table):
    """[pair]: how the two sides reach each other, and when one gives the other up."""

    listen: Tcp = TcpAddress("127.0.0.1", 0)
    heartbeat_ms: Annotated[int, Field(ge=1, le=10_000)] = 20
    timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 200
    arbiter: ArbiterBackend = Backend("file", "arbiter")
    keys: Annotated[FilePath | None, Field(validate_default=True)] = None
    history: Annotated[Size, Field(le=64 << 30)] = 0

    @field_validator("timeout_ms")
    @classmethod
    def _timeout(cls, timeout_ms: int, info: ValidationInfo) -> int:
        least = 3 * int(info.data.get("heartbeat_ms", 0))
        if timeout_ms < least:
            raise ValueError(f"{timeout_ms} is less than three heartbeats, {least}")
        return timeout_ms

    @field_validator("keys")
    @classmethod
    def _keys(cls, keys: str | None, info: ValidationInfo) -> str | None:
        listen = info.data.get("listen")
        if keys is None and listen is not None and not listen.loopback:
            raise ValueError(f'is missing: pair.listen = "{listen}" can be reached from other hosts')
        return keys


class MachineConfig(_Table):
    """A whole machine file."""

    name: str
    machine: MachineTable = MachineTable()
    disk: Annotated[tuple[DiskTable, ...], Field(strict=False)] = ()
    network: Annotated[tuple[NetworkTable, ...], Field(strict=False)] = ()
    console: ConsoleTable = ConsoleTable()
    service: ServiceTable = ServiceTable()
    driver: DriverTable = DriverTable()
    pair: PairTable = PairTable()

    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{show(name)} must be 1 to 63 letters, digits, dots, dashes or underscores")
        return name

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        needed = board.slots_needed(len(self.disk), len(self.network), self.service_block is not None)
        if needed > board.VIRTIO_SLOTS:
            raise ValueError(
                f"disks, networks, the block service and the entropy device need {needed} virtio slots; "
                f"the board has {board.VIRTIO_SLOTS}"
            )
        images = [disk.image for disk in self.disk]
        if len(set(images)) != len(images):
            raise ValueError("disk: two disks have the same image")
        macs = [self.mac(unit) for unit in range(len(self.network))]
        if len(set(macs)) != len(macs):
            raise ValueError("network: two networks have the same mac")
        backends = [network.backend for network in self.network if network.backend.argument]
        if len(set(backends)) != len(backends):
            raise ValueError("network: two networks have the same backend")
        if self.service_block is not None and self.service_block.disk >= len(self.disk):
            raise ValueError(f"service.block.disk: there is no disk {self.service_block.disk}; add a [[disk]] table")
        return self

    # -- what the rest of ftvm asks -----------------------------------------------------------------------------

    @property
    def service_block(self) -> BlockServiceTable | None:
        """[service.block], or None when the guest serves no clients."""
        return self.service.block

    @property
    def driver_restart(self) -> bool:
        """Whether a guest that dies is restarted: as written, or when it serves clients."""
        return self.driver.restart if self.driver.restart is not None else self.service_block is not None

    @property
    def watchdog_ticks(self) -> int:
        """Guest time in which a request must be answered."""
        return self.driver.watchdog_ms * (board.TIMEBASE_HZ // 1000)

    @property
    def boot_ticks(self) -> int:
        """Guest time in which a driver that boots must have opened its port, when a request waits for it."""
        return self.driver.boot_ms * (board.TIMEBASE_HZ // 1000)

    @property
    def slots(self) -> tuple[board.VirtioSlot, ...]:
        """The virtio slots, in order."""
        return board.slots(self)

    def mac(self, unit: int) -> bytes:
        """MAC address of network `unit`: as written, or counted up from 52:54:00:12:34:56."""
        written = self.network[unit].mac
        return written or (int.from_bytes(DEFAULT_MAC) + unit).to_bytes(6)

    @property
    def base(self) -> Path:
        """The directory that kernel, initrd and keys are relative to."""
        return self._base

    @property
    def kernel_path(self) -> Path | None:
        """The kernel's file, or None for a bundled guest."""
        return None if is_bundled(self.machine.kernel) else resolve(self.machine.kernel, self._base)

    @property
    def initrd_path(self) -> Path | None:
        return None if self.machine.initrd is None else resolve(self.machine.initrd, self._base)

    @property
    def keys_path(self) -> Path | None:
        return None if self.pair.keys is None else resolve(self.pair.keys, self._base)

    def disk_path(self, unit: int, state: Path) -> Path:
        """The user's image of disk `unit`; it need not exist."""
        return resolve(self.disk[unit].image, state)

    # -- what both sides agree on -------------------------------------------------------------------------------

    def agreed(self) -> bytes:
        """Canonical form of everything that the guest can see, except the contents of images: equal or not a pair."""
        assert all(disk.size for disk in self.disk), "settled() comes first: the guest sees disks' sizes"
        block = self.service_block
        visible = {
            "format": AGREED_FORMAT,
            "memory": self.machine.memory,
            "cmdline": self.machine.cmdline,
            "seed": self.machine.seed,
            "disks": [disk.size for disk in self.disk],
            "networks": [self.mac(unit).hex(":") for unit in range(len(self.network))],
            "block": None if block is None else {"disk": block.disk, "size": block.size, "vendor": block.vendor},
            "restart": self.driver_restart,
            "watchdog_ms": self.driver.watchdog_ms,
            "boot_ms": self.driver.boot_ms,
            "panic": self.driver.panic,
        }
        return json.dumps(visible, sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> str:
        """SHA-256 of `agreed()`, in hexadecimal."""
        return hashlib.sha256(self.agreed()).hexdigest()

    # -- making one ---------------------------------------------------------------------------------------------

    @classmethod
    def default(cls, name: str) -> MachineConfig:
        """The bundled driver VM with one disk of 64 MiB, served on a Unix socket in the state directory."""
        return parse({"name": name, "disk": [{"image": "disk0.img", "size": "64 MiB"}], "service": {"block": {}}}, name)

    def settled(self, state: Path) -> MachineConfig:
        """This configuration with the sizes of existing images filled in, and paths of existing files absolute."""
        kernel = self.kernel_path
        machine = self.machine.model_copy(
            update={
                "kernel": self.machine.kernel if kernel is None else str(kernel.absolute()),
                "initrd": None if self.initrd_path is None else str(self.initrd_path.absolute()),
            }
        )
        keys = None if self.keys_path is None else str(self.keys_path.absolute())
        disks = tuple(
            disk.model_copy(update={"size": self._disk_size(unit, state)}) for unit, disk in enumerate(self.disk)
        )
        pair = self.pair.model_copy(update={"keys": keys})
        return self.model_copy(update={"machine": machine, "disk": disks, "pair": pair})

    def _disk_size(self, unit: int, state: Path) -> int:
        written, path = self.disk[unit].size, self.disk_path(unit, state)
        try:
            found = path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise ConfigError(f"{self.name}: disk[{unit}].image: {path}: {error.strerror}") from None
        if found is None and written is None:
            raise ConfigError(f"{self.name}: disk[{unit}].size: is missing, and there is no {path} to take it from")
        if found is not None and written is not None and found != written:
            raise ConfigError(
                f"{self.name}: disk[{unit}].size: {format_size(written)}, but {path} has {format_size(found)}; "
                "leave size out to take the image's"
            )
        try:
            return check_disk_size(found or written or 0)
        except ValueError as error:
            raise ConfigError(f"{self.name}: disk[{unit}].image: {path}: {error}") from None


def check_disk_size(size: int) -> int:
    """A disk is whole sectors, at least one."""
    if not SECTOR <= size <= DISK_MAX or size % SECTOR:
        raise ValueError(f"{format_size(size)} is not a multiple of {SECTOR} B between {SECTOR} B and 16 TiB")
    return size


def load(path: Path | str) -> MachineConfig:
    """Read and check a machine file; ConfigError with one line per mistake."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return load_text(content, path)


def load_text(content: bytes, path: Path) -> MachineConfig:
    """Check a machine file's content; `path` names it in messages and is where kernel and initrd are looked for."""
    if len(content) > FILE_SIZE_MAX:
        raise ConfigError(f"{path}: is larger than {format_size(FILE_SIZE_MAX)}: not a machine file")
    try:
        tables = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a machine file: byte {error.start} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    config = parse(tables, str(path))
    config._base = path.absolute().parent
    return config


def parse(tables: dict[str, Any], origin: str) -> MachineConfig:
    """Check tables as TOML gives them; `origin` opens each message."""
    try:
        return MachineConfig.model_validate(tables)
    except ValidationError as error:
        lines = describe(error, _FIELDS)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


_TABLES: dict[tuple[str, ...], type[_Table]] = {
    (): MachineConfig,
    ("machine",): MachineTable,
    ("disk",): DiskTable,
    ("network",): NetworkTable,
    ("console",): ConsoleTable,
    ("service",): ServiceTable,
    ("service", "block"): BlockServiceTable,
    ("driver",): DriverTable,
    ("pair",): PairTable,
}
_FIELDS: Fields = {path: list(table.model_fields) for path, table in _TABLES.items()}
