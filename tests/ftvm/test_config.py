# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine files: what they mean, and what is said about wrong ones."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.config import MachineConfig, load, load_text, parse
from ftvm.config_error import ConfigError
from ftvm.config_keys import read_keys, write_keys
from ftvm.config_text import example, to_toml
from ftvm.config_values import (
    Backend,
    TcpAddress,
    UnixAddress,
    format_size,
    parse_address,
    parse_size,
    parse_tcp,
)

ISSUED = """
name = "disk0"
[machine]
memory = "64 MiB"
kernel = "blockd"
initrd = "initramfs.cpio.gz"
cmdline = "console=ttyS0"
[[disk]]
image = "disk0.img"
size = "64 MiB"
mode = "replicated"
[[network]]
backend = "none"
mac = "52:54:00:12:34:56"
[console]
backend = "file:console.log"
[service.block]
disk = 0
listen = ["127.0.0.1:10809", "unix:nbd.sock"]
[pair]
listen = "127.0.0.1:7700"
heartbeat_ms = 20
timeout_ms = 200
arbiter = "file:arbiter"
"""


def read(text: str, tmp_path: Path, name: str = "disk0.toml") -> MachineConfig:
    """A machine file with that text, loaded."""
    path = tmp_path / name
    path.write_text(text)
    return load(path)


def refusal(text: str, tmp_path: Path) -> str:
    """What is said about a wrong machine file, without the path of its directory."""
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_every_documented_name_is_understood(tmp_path: Path) -> None:
    config = read(ISSUED, tmp_path)
    assert config.machine.memory == 64 << 20
    assert config.disk[0].size == 64 << 20
    assert config.mac(0) == bytes.fromhex("525400123456")
    assert config.console.backend == Backend("file", "console.log")
    assert config.service_block is not None
    assert config.service_block.listen == (TcpAddress("127.0.0.1", 10809), UnixAddress("nbd.sock"))
    assert config.pair.listen == TcpAddress("127.0.0.1", 7700)
    assert config.pair.arbiter == Backend("file", "arbiter")


def test_a_name_is_all_that_a_file_needs(tmp_path: Path) -> None:
    config = read('name = "x"', tmp_path)
    assert (config.machine.kernel, config.machine.memory, config.disk) == ("blockd", 64 << 20, ())
    assert config.service_block is None and not config.driver_restart
    assert config.watchdog_ticks == 20_000_000


def test_a_guest_that_serves_clients_is_restarted_unless_told_otherwise(tmp_path: Path) -> None:
    served = '[[disk]]\nimage = "d"\nsize = "1 MiB"\n[service.block]\n'
    assert read(f'name = "x"\n{served}', tmp_path).driver_restart
    assert not read(f'name = "x"\n{served}[driver]\nrestart = false\n', tmp_path).driver_restart
    assert read('name = "x"\n[driver]\nrestart = true\n', tmp_path).driver_restart


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "disk0.toml: name: is missing"),
        ('name = "../x"', 'disk0.toml: name: "../x" must be 1 to 63 letters'),
        ('name = "x"\n[machine]\nmemory = "64 MB"', 'machine.memory: "64 MB" is not a size; write e.g. "64 MiB"'),
        ('name = "x"\n[machine]\nmemory = 64', "machine.memory: 64 is not a size; write it as a string with its unit"),
        ('name = "x"\n[machine]\nmemory = "8 MiB"', "machine.memory: 8 MiB is not a multiple of 4 KiB between 16 MiB"),
        ('name = "x"\n[machine]\nmemory = "2 GiB"', "machine.memory: 2 GiB is not a multiple of 4 KiB between 16 MiB"),
        ('name = "x"\n[machine]\nmemry = "64 MiB"', 'machine.memry: no such name; did you mean "memory"?'),
        ('name = "x"\n[extra]\n', "extra: no such name; known here: name, machine, disk"),
        ('name = "x"\n[machine]\ncmdline = "a\\u0000b"', "machine.cmdline: must be at most 1023 bytes"),
        ('name = "x"\n[machine]\nseed = "1"', 'machine.seed: "1" is not a whole number'),
        ('name = "x"\n[machine]\nkernel = ""', 'machine.kernel: "" is not a path'),
        ('name = "x"\n[disk]\nimage = "d"', "disk: is a list of tables; write [[disk]]"),
        ('name = "x"\n[[disk]]\nsize = "1 MiB"', "disk[0].image: is missing"),
        ('name = "x"\n[[disk]]\nimage = "d"\nmode = "shared"', 'disk[0].mode: "shared" is not one of "replicated"'),
        ('name = "x"\n[[disk]]\nimage = "d"\nsize = "100 B"', "disk[0].size: 100 B is not a multiple of 512 B"),
        ('name = "x"\n[[disk]]\nimage = "d"\n[[disk]]\nimage = "d"', "disk: two disks have the same image"),
        ('name = "x"\n[[network]]\nbackend = "tap"', 'network[0].backend: "tap" is not one of "none", "tap:NAME"'),
        ('name = "x"\n[[network]]\nbackend = "tap:a/b"', 'network[0].backend: "a/b" is not the name of a network'),
        ('name = "x"\n[[network]]\nbackend = "tap:sixteenletterszz"', "is not the name of a network device"),
        ('name = "x"\n[[network]]\nbackend = "stream:a"', 'network[0].backend: "a" is not an address; write HOST:PORT'),
        ('name = "x"\n[[network]]\nbackend = "stream:peer:1"', '"peer" is not an IP address: host names are not'),
        ('name = "x"\n[[network]]\nbackend = "stream:1.2.3.4:0"', '"1.2.3.4:0" names no port'),
        ('name = "x"\n[[network]]\nbackend = "passt:"', 'network[0].backend: "" is not a path'),
        ('name = "x"\n[[network]]\nforward = ["tcp:1:2"]', 'network[0].forward: is for backend = "passt", not'),
        (
            'name = "x"\n[[network]]\nbackend = "passt"\nforward = ["tcp:0:2"]',
            'network[0].forward[0]: "tcp:0:2" forwards nothing; write e.g. "tcp:8080:80"',
        ),
        (
            'name = "x"\n[[network]]\nbackend = "passt"\nforward = ["tcp:me:1:2"]',
            'network[0].forward[0]: "me" is not an IPv4 address',
        ),
        (
            'name = "x"\n[[network]]\nbackend = "tap:t"\n[[network]]\nbackend = "tap:t"',
            "network: two networks have the same backend",
        ),
        ('name = "x"\n[[network]]\nmac = "52:54"', 'network[0].mac: "52:54" is not a MAC address'),
        ('name = "x"\n[[network]]\nmac = "01:00:5e:00:00:01"', "is a group address"),
        ('name = "x"\n[console]\nbackend = "pty"', 'console.backend: "pty" is not one of "stdio", "none", "file:PATH"'),
        ('name = "x"\n[service.block]\n', "service.block.disk: there is no disk 0; add a [[disk]] table"),
        ('name = "x"\n[service.block]\nlisten = []', "service.block.listen: names no address"),
        ('name = "x"\n[service.block]\nlisten = ["here"]', 'service.block.listen[0]: "here" is not an address'),
        ('name = "x"\n[service.block]\nlisten = "unix:a"', 'service.block.listen: "unix:a" is not a list'),
        ('name = "x"\n[driver]\nrestart = "yes"', 'driver.restart: "yes" is not true or false'),
        ('name = "x"\n[driver]\nwatchdog_ms = 1', "driver.watchdog_ms: 1 is less than 10"),
        ('name = "x"\n[driver]\npanic = "a\\nb"', "driver.panic: must be printable"),
        ('name = "x"\n[pair]\ntimeout_ms = 50', "pair.timeout_ms: 50 is less than three heartbeats, 60"),
        ('name = "x"\n[pair]\nlisten = "0.0.0.0:7700"', 'pair.keys: is missing: pair.listen = "0.0.0.0:7700" can be'),
        ('name = "x"\n[pair]\nlisten = "127.0.0.1:70000"', "is not an address; write HOST:PORT"),
        ('name = "x"\n[pair]\narbiter = "etcd:x"', 'pair.arbiter: "etcd:x" is not one of "file:PATH"'),
        ('name = "x"\nname = "y"', "is not valid TOML"),
        ('name = "x', "is not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_file_field_and_remedy(text: str, words: str, tmp_path: Path) -> None:
    said = refusal(text, tmp_path)
    assert said.startswith("disk0.toml: ")
    assert words in said


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    said = refusal('[machine]\nmemory = "1"\nseed = -1\n', tmp_path).splitlines()
    assert [line.split(": ")[1] for line in said] == ["name", "machine.memory", "machine.seed"]


def test_the_board_has_eight_virtio_slots(tmp_path: Path) -> None:
    network = "[[network]]\n"
    assert len(read('name = "x"\n' + network * 7, tmp_path).slots) == 8
    assert "need 9 virtio slots; the board has 8" in refusal('name = "x"\n' + network * 8, tmp_path)


def test_networks_without_a_mac_get_different_ones(tmp_path: Path) -> None:
    config = read('name = "x"\n[[network]]\n[[network]]\n', tmp_path)
    assert config.mac(0).hex(":") == "52:54:00:12:34:56" and config.mac(1).hex(":") == "52:54:00:12:34:57"
    assert "two networks have the same mac" in refusal(
        'name = "x"\n[[network]]\n[[network]]\nmac = "52:54:00:12:34:56"', tmp_path
    )


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="byte 0 is not UTF-8"):
        load_text(b"\xff", tmp_path / "x")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_text(b"#" * ((1 << 20) + 1), tmp_path / "x")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_text(b"a=" + b"[" * 100_000, tmp_path / "x")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_machine_file_or_refused_in_words(content: bytes) -> None:
    try:
        load_text(content, Path("x.toml"))
    except ConfigError as error:
        assert str(error).startswith("x.toml: ")


_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
_VALUE = st.recursive(
    _LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "size", "block", "listen", "disk", "mac", "backend"]), inner)
    ),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from([*MachineConfig.model_fields]), _VALUE))
def test_any_tables_are_a_configuration_or_refused_in_words(tables: dict[str, object]) -> None:
    try:
        parse(tables, "x.toml")
    except ConfigError as error:
        assert all(line for line in str(error).splitlines())


@given(st.integers(min_value=0, max_value=1 << 50))
def test_sizes_print_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["127.0.0.1:7700", "[::1]:7700", "localhost:0", "host-1.example:65535"])
def test_tcp_addresses_print_back(text: str) -> None:
    assert str(parse_tcp(text)) == text


@pytest.mark.parametrize(
    "text", ["", ":1", "a:", "a:b", "a:-1", "a:99999", "::1:7700", "[::1:7700", "a b:1", "a:\uff11"]
)
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|names no host|is not an IPv6"):
        parse_tcp(text)


def test_loopback_is_told_from_what_others_can_reach() -> None:
    reach = {text: parse_tcp(text).loopback for text in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1")}
    assert all(reach.values())
    assert not parse_tcp("10.0.0.1:1").loopback and not parse_tcp("example.org:1").loopback
    assert parse_address("unix:a:b") == UnixAddress("a:b")


# -- the example --------------------------------------------------------------------------------------------------


def test_the_example_loads_and_spells_out_the_defaults(tmp_path: Path) -> None:
    config = read(example("disk0"), tmp_path)
    default = MachineConfig.default("disk0").model_copy(update={"network": config.network, "driver": config.driver})
    assert to_toml(config) == to_toml(default)
    assert config.driver.watchdog_ms == MachineConfig.default("disk0").driver.watchdog_ms
    assert config.driver_restart == MachineConfig.default("disk0").driver_restart


def test_the_examples_optional_lines_are_right_once_uncommented(tmp_path: Path) -> None:
    text = example().replace("# initrd", "initrd").replace("# keys", "keys")
    config = read(text, tmp_path)
    assert config.initrd_path == tmp_path / "initramfs.cpio.gz" and config.keys_path == tmp_path / "pair.keys"


def test_another_guest_needs_only_its_kernels_path(tmp_path: Path) -> None:
    config = read(example().replace('"blockd" ', '"guests/mine.elf" '), tmp_path)
    assert config.kernel_path == tmp_path / "guests/mine.elf"


def test_a_file_called_like_a_bundled_guest_needs_a_slash(tmp_path: Path) -> None:
    assert read('name = "x"\n[machine]\nkernel = "blockd"', tmp_path).kernel_path is None
    assert read('name = "x"\n[machine]\nkernel = "./blockd"', tmp_path).kernel_path == tmp_path / "blockd"


# -- settled configurations ---------------------------------------------------------------------------------------


def test_a_settled_configuration_reads_back_the_same_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    config = read(ISSUED.replace('"blockd"', '"my.elf"'), tmp_path).settled(tmp_path / "state")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = read(to_toml(config), elsewhere)
    assert to_toml(again) == to_toml(config)
    assert again.kernel_path == tmp_path / "my.elf"
    assert again.agreed() == config.agreed()


@given(cmdline=st.text(st.characters(codec="utf-8"), max_size=60), image=st.text(string.printable, min_size=1))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_being_written_and_read(cmdline: str, image: str) -> None:
    tables = {"name": "x", "machine": {"cmdline": cmdline}, "disk": [{"image": image, "size": "1 MiB"}]}
    try:
        config = parse(tables, "x")
    except ConfigError:
        return
    again = load_text(to_toml(config).encode(), Path("x"))
    assert again.machine == config.machine and again.disk == config.disk


def test_a_disk_takes_its_size_from_its_image(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(1536))
    config = read('name = "x"\n[[disk]]\nimage = "d"\n', tmp_path).settled(tmp_path)
    assert config.disk[0].size == 1536


def test_what_was_settled_keeps_a_size_although_the_image_is_gone(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(1536))
    text = to_toml(read('name = "x"\n[[disk]]\nimage = "d"\n', tmp_path).settled(tmp_path))
    (tmp_path / "d").unlink()
    assert read(text, tmp_path).settled(tmp_path).disk[0].size == 1536


@pytest.mark.parametrize(
    ("content", "size", "words"),
    [
        (None, "", "disk[0].size: is missing, and there is no"),
        (bytes(512), 'size = "1 KiB"', "disk[0].size: 1 KiB, but"),
        (bytes(513), "", "513 B is not a multiple of 512 B"),
        (b"", "", "0 B is not a multiple of 512 B"),
    ],
)
def test_a_disk_without_a_certain_size_is_refused(content: bytes | None, size: str, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "d").write_bytes(content)
    config = read(f'name = "x"\n[[disk]]\nimage = "d"\n{size}\n', tmp_path)
    with pytest.raises(ConfigError) as caught:
        config.settled(tmp_path)
    assert words in str(caught.value)


def test_only_what_the_guest_can_see_must_be_agreed_upon(tmp_path: Path) -> None:
    base = read(example(), tmp_path).settled(tmp_path)
    same = [
        ("disk0.img", "other.img"),
        ("127.0.0.1:0", "127.0.0.1:9"),
        ("unix:nbd.sock", "unix:n"),
        ("timeout_ms = 200", "timeout_ms = 300"),
    ]
    for old, new in same:
        assert old in example()
        assert read(example().replace(old, new), tmp_path).settled(tmp_path).digest() == base.digest(), old
    differs = [
        ('memory = "64 MiB"', 'memory = "32 MiB"'),
        ('size = "64 MiB"', 'size = "32 MiB"'),
        ('cmdline = ""', 'cmdline = "a"'),
        ("seed = 0", "seed = 1"),
        ("52:54:00:12:34:56", "52:54:00:12:34:57"),
        ("watchdog_ms = 2000", "watchdog_ms = 3000"),
        ("boot_ms = 60000", "boot_ms = 90000"),
        ('# size = "64 MiB"', 'size = "32 MiB"'),
        ("restart = true", "restart = false"),
        ('panic = "Kernel panic', 'panic = "Panic'),
        ("vendor = false", "vendor = true"),
        ("[console]", "[[network]]\nmac = '52:54:00:00:00:01'\n[console]"),
    ]
    for old, new in differs:
        assert old in example()
        assert read(example().replace(old, new), tmp_path).settled(tmp_path).digest() != base.digest(), old


def test_the_agreed_form_is_pinned(tmp_path: Path) -> None:
    """Recordings and pairs compare it: changing it needs a new AGREED_FORMAT."""
    assert MachineConfig.default("x").agreed() == (
        b'{"block":{"disk":0,"size":null,"vendor":false},"boot_ms":60000,"cmdline":"","disks":[67108864],"format":3,'
        b'"memory":67108864,'
        b'"networks":[],"panic":"Kernel panic - not syncing","restart":true,"seed":0,"watchdog_ms":2000}'
    )


# -- keys ---------------------------------------------------------------------------------------------------------


def test_written_keys_read_back_and_trust_themselves(tmp_path: Path) -> None:
    path = tmp_path / "pair.keys"
    write_keys(path)
    keys = read_keys(path)
    assert keys.peers == (keys.public,) and keys.secret not in keys.peers
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists already"):
        write_keys(path)


@pytest.mark.parametrize("text", ["", "x", 'public = "a"\nsecret = "b"', 'public = 1\nsecret = "b"', "peers = []"])
def test_wrong_keys_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pair.keys"
    path.write_text(text)
    os.chmod(path, 0o600)
    with pytest.raises(ConfigError, match=r"pair\.keys"):
        read_keys(path)


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pair.keys"
    write_keys(path)
    os.chmod(path, 0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_keys(path)
