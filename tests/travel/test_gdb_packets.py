# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of GDB's protocol: what is sent is read again, whatever the pieces; what is broken is told or refused."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.gdb.packet import INTERRUPT, NAK, PACKET_MAX, PacketReader, ProtocolError, frame, unescape
from replay.gdb.registers import BY_NUMBER, GENERAL, target_xml


@settings(max_examples=60)
@given(payloads=st.lists(st.binary(max_size=80), max_size=6), cut=st.integers(1, 9))
def test_packets_survive_any_cut(payloads: list[bytes], cut: int) -> None:
    reader = PacketReader()
    stream = b"+".join(frame(payload) for payload in payloads)
    found = [item for at in range(0, len(stream), cut) for item in reader.feed(stream[at : at + cut])]
    assert [item for item, is_packet in found if is_packet] == payloads


def test_an_interrupt_between_packets_is_seen_and_one_inside_is_content() -> None:
    found = PacketReader().feed(INTERRUPT + frame(b"a\x03b"))
    assert found == [(INTERRUPT, False), (b"a\x03b", True)]


def test_a_wrong_sum_is_told() -> None:
    assert PacketReader().feed(b"$g#00") == [(NAK, True)]
    assert PacketReader().feed(b"$g#zz") == [(NAK, True)]


def test_runs_are_expanded_and_bounded() -> None:
    assert unescape(b"0* ") == b"0000"
    with pytest.raises(ProtocolError):
        unescape(b"a*~" * PACKET_MAX)
    with pytest.raises(ProtocolError):
        PacketReader().feed(b"$" + b"x" * (3 * PACKET_MAX))


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_noise_does_no_harm(data: bytes) -> None:
    reader = PacketReader()
    for item, is_packet in reader.feed(data):
        assert is_packet or len(item) == 1


def test_the_target_description_numbers_every_register_once() -> None:
    tree = ElementTree.fromstring(target_xml())
    numbers = [int(reg.get("regnum", "-1")) for reg in tree.iter("reg")]
    assert sorted(numbers) == sorted(BY_NUMBER) and len(set(numbers)) == len(numbers)
    assert [register.number for register in GENERAL] == list(range(65))
