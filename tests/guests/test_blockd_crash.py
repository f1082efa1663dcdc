# SPDX-License-Identifier: GPL-2.0-or-later
"""blockd dies as it is told to: by request or by poisoned block, only with `crash=on`."""

from __future__ import annotations

import pytest

from .conftest import Blockd, StartBlockd
from .port_client import CRASH, EINVAL, READ, REPLY_MAGIC, WRITE

PANIC, LOOP, WRECK, TRAPS, DROP, GARBAGE = range(1, 7)
BLOCK = 4096
SILENCE_S = 0.3


def poison(mode: int) -> bytes:
    """One block that makes blockd die in that way."""
    return f"FTVM-POISON-MD={mode}".encode().ljust(BLOCK, b".")


def assert_dead(blockd: Blockd, mode: int) -> None:
    """What `mode` looks like from outside."""
    if mode == PANIC:
        blockd.guest.wait_for_end()
        assert "panic: told to" in blockd.guest.console()
    elif mode == WRECK:
        blockd.guest.wait_for_end()
        assert "needs a reset" in blockd.guest.console(), blockd.guest.story()
    else:
        blockd.guest.wait_for(f"told to crash, mode {mode}")
        blockd.client.send(READ, 0, 512)
        assert blockd.client.silent(SILENCE_S)
        assert blockd.guest.running()
        before = blockd.guest.cpu_seconds()
        assert blockd.client.silent(SILENCE_S)
        assert blockd.guest.cpu_seconds() > before, "it loops"


@pytest.mark.parametrize("mode", [PANIC, LOOP, WRECK, TRAPS])
def test_a_crash_request_kills(start_blockd: StartBlockd, mode: int) -> None:
    """The mode is the offset's low byte."""
    blockd = start_blockd("crash=on")
    assert blockd.client.read(0, 512) == bytes(512)
    blockd.client.send(CRASH, 0xABCD00 + mode)
    assert_dead(blockd, mode)


@pytest.mark.parametrize("mode", [PANIC, WRECK])
def test_a_poisoned_block_that_is_read_kills(start_blockd: StartBlockd, mode: int) -> None:
    """Also as one of many in flight, deep inside a request that begins off a block boundary."""
    blockd = start_blockd("quiet crash=on", content=bytes(20 * BLOCK) + poison(mode))
    assert blockd.client.read(0, 20 * BLOCK) == bytes(20 * BLOCK)
    for n in range(32):
        blockd.client.send(READ, (100 + n) * BLOCK, BLOCK)
    blockd.client.send(READ, BLOCK + 512, 30 * BLOCK)
    assert_dead(blockd, mode)


@pytest.mark.parametrize("mode", [PANIC, LOOP])
def test_a_poisoned_block_kills_before_it_is_written(start_blockd: StartBlockd, mode: int) -> None:
    """A resubmitted write kills again, but the disk stays clean."""
    blockd = start_blockd("crash=on")
    blockd.client.send(WRITE, 512, data=bytes(7 * 512) + poison(mode))
    assert_dead(blockd, mode)
    assert blockd.on_disk(0, 64 * BLOCK) == bytes(64 * BLOCK)


def test_poison_off_a_block_boundary_is_just_data(start_blockd: StartBlockd) -> None:
    """Only the first bytes of a block of 4 KiB count."""
    blockd = start_blockd("crash=on")
    assert blockd.client.call(WRITE, 512, data=poison(PANIC)).error == 0
    assert blockd.client.read(0, 2 * BLOCK)[512 : 512 + BLOCK] == poison(PANIC)


def test_without_crash_on_nothing_kills(start_blockd: StartBlockd) -> None:
    """Requests get an error, poison is data."""
    client = start_blockd("crash=off").client
    assert client.call(CRASH, PANIC).error == EINVAL
    assert client.call(WRITE, 0, data=poison(PANIC)).error == 0
    assert client.read(0, BLOCK) == poison(PANIC)


def test_an_unknown_mode_is_an_error(start_blockd: StartBlockd) -> None:
    """So is a request type close to ours."""
    client = start_blockd("crash=on").client
    assert client.call(CRASH, 7).error == EINVAL
    assert client.call(CRASH, 0).error == EINVAL
    assert client.call(CRASH + 1, PANIC).error == EINVAL


def test_a_dropped_request_is_never_answered_and_others_are(start_blockd: StartBlockd) -> None:
    """By request, and by poison read or written."""
    blockd = start_blockd("crash=on", content=poison(DROP))
    client = blockd.client
    client.send(CRASH, DROP)
    client.send(READ, 0, BLOCK)
    client.send(WRITE, 8 * BLOCK, data=bytes(BLOCK) + poison(DROP) + bytes(BLOCK))
    assert client.call(READ, 4 * BLOCK, BLOCK).error == 0
    assert client.silent(SILENCE_S)


@pytest.mark.parametrize("kind", [CRASH, READ, WRITE])
def test_a_malformed_reply_has_no_magic(start_blockd: StartBlockd, kind: int) -> None:
    """Other requests are still answered properly."""
    blockd = start_blockd("crash=on", content=poison(GARBAGE))
    client = blockd.client
    assert client.call(READ, 4 * BLOCK, BLOCK).magic == REPLY_MAGIC
    if kind == CRASH:
        client.send(CRASH, GARBAGE)
    elif kind == WRITE:
        client.send(WRITE, BLOCK, data=poison(GARBAGE))
    else:
        client.expect_no_data(client.send(READ, 0, BLOCK))
    assert client.answer().magic == REPLY_MAGIC ^ 0xFFFFFFFF
    assert client.call(READ, 4 * BLOCK, BLOCK).magic == REPLY_MAGIC
