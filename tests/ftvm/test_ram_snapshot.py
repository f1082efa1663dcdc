# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a hart's RAM: what is taken later is what was there then, whatever happens meanwhile."""

from __future__ import annotations

import random
import threading
from array import array

import pytest

from ftvm.hart import RAM_BASE
from ftvm.ram_snapshot import PAGE, Pages, RamSnapshot
from tests.ftvm.guest import Guest
from tests.ftvm.test_hart_state import busy_guest, ram_digest, run_whole, script, step

SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(4)]


def apply(image: bytearray, pages: Pages) -> None:
    """Put pages into an image of RAM."""
    for place, number in enumerate(array("I", pages.numbers)):
        image[number * PAGE : (number + 1) * PAGE] = pages.content[place * PAGE : (place + 1) * PAGE]
    for number in array("I", pages.zeros):
        image[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)


def drain(snapshot: RamSnapshot, image: bytearray) -> None:
    """Take everything that is left."""
    while len(pages := snapshot.take(64)):
        apply(image, pages)
    assert snapshot.left == snapshot.kept == 0


def differing(ours: bytearray, theirs: bytes) -> list[int]:
    """Numbers of the pages that differ."""
    pages = range(0, len(theirs), PAGE)
    return [at // PAGE for at in pages if ours[at : at + PAGE] != theirs[at : at + PAGE]]


def meddle(guest: Guest, chance: random.Random) -> None:
    """The host writes, by every way that it has."""
    size = len(guest.hart.ram)
    way = chance.random()
    if way < 0.3:
        guest.hart.load_ram(size - 40 * PAGE + chance.randrange(30 * PAGE), chance.randbytes(3 * PAGE))
    elif way < 0.5:
        at = size - 5 * PAGE
        guest.hart.writes(RAM_BASE + at, 8)
        guest.hart.ram[at : at + 8] = chance.randbytes(8)
    elif way < 0.6:
        numbers = array("I", [chance.randrange(size // PAGE - 9, size // PAGE)])
        guest.hart.put_pages(Pages(numbers.tobytes(), chance.randbytes(PAGE)))
    elif way < 0.7:
        guest.hart.put_pages(Pages(b"", b"", array("I", [size // PAGE - 5]).tobytes()))
    elif way < 0.8:
        guest.hart.clear_dirty()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapshot_is_what_was_there_when_it_began(seed: int) -> None:
    """Two series at once, taken in small batches between epochs of a guest that writes everywhere, page tables too."""
    chance, guest = random.Random(seed), busy_guest()
    series = [guest.hart.snapshots(), guest.hart.snapshots()]
    wanted: list[bytes] = [b"", b""]
    images = [bytearray(), bytearray()]
    taking: list[RamSnapshot | None] = [None, None]
    compared = 0
    for entry in script(seed) * 3:
        for which in range(2):
            snapshot = taking[which]
            if snapshot is None and chance.random() < 0.5:
                taking[which] = series[which].begin()
                wanted[which], images[which] = bytes(guest.hart.ram), bytearray(len(guest.hart.ram))
            elif snapshot is not None:
                for _ in range(chance.randrange(3)):
                    apply(images[which], snapshot.take(chance.choice((1, 7, 64))))
                if chance.random() < 0.1:
                    drain(snapshot, images[which])
                    assert not differing(images[which], wanted[which]), f"seed {seed}"
                    taking[which] = None
                    compared += 1
        step(guest, entry)
        meddle(guest, chance)
    assert compared > 4
    assert guest.hart.counters()["pages_kept"] > 30, "hardly any page was written before it was taken"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_row_of_snapshots_of_changes_brings_everything(seed: int) -> None:
    """Loose ones, taken while the guest runs, then an exact one: the image is RAM as it was at the last one."""
    chance, guest = random.Random(seed), busy_guest()
    series, image = guest.hart.snapshots(), bytearray(len(guest.hart.ram))
    snapshot = series.begin(exact=False)
    wanted, rows, exact = b"", 0, False
    for entry in script(seed) * 3:
        if chance.random() < 0.7:
            apply(image, snapshot.take(chance.choice((5, 50, 300))))
        if snapshot.left == 0 or chance.random() < 0.1:
            drain(snapshot, image)
            if exact:
                assert not differing(image, wanted), f"seed {seed}"
                rows += 1
            exact = chance.random() < 0.5
            changed = series.changed()
            snapshot = series.begin(changed=True, exact=exact)
            assert snapshot.pages == changed < len(wanted or guest.hart.ram) // PAGE
            wanted = bytes(guest.hart.ram)
        step(guest, entry)
        meddle(guest, chance)
    assert rows > 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_thread_takes_while_the_guest_runs(seed: int) -> None:
    """The image is whole, and the guest's run is the same as without snapshots."""
    guest = busy_guest()
    series = guest.hart.snapshots()
    digests = []
    entries = script(seed)
    for at, entry in enumerate(entries):
        if at % 10 == 0:
            wanted, image = bytes(guest.hart.ram), bytearray(len(guest.hart.ram))
            thread = threading.Thread(target=drain, args=(series.begin(), image))
            thread.start()
        digests.append(step(guest, entry))
        if at % 10 == 9:
            thread.join()
            assert not differing(image, wanted), f"seed {seed}"
    assert [*digests, ram_digest(guest.hart)] == run_whole(seed), f"seed {seed}"


def test_zeroing_ram_keeps_what_a_snapshot_needs() -> None:
    """As a reset of the guest does, while a joiner is being fed."""
    guest = busy_guest()
    for entry in script(1)[:20]:
        step(guest, entry)
    wanted, image = bytes(guest.hart.ram), bytearray(len(guest.hart.ram))
    snapshot = guest.hart.snapshots().begin()
    guest.hart.zero_ram()
    drain(snapshot, image)
    assert not differing(image, wanted) and any(wanted) and not any(guest.hart.ram)


def test_a_page_can_be_looked_at_until_it_is_taken() -> None:
    guest = busy_guest()
    series = guest.hart.snapshots()
    snapshot = series.begin()
    before = bytes(guest.hart.ram[:PAGE])
    assert snapshot.look(0) == before
    guest.hart.load_ram(0, b"new")
    assert snapshot.kept == 1 and snapshot.look(0) == before
    drain(snapshot, bytearray(len(guest.hart.ram)))
    assert snapshot.look(0) is None
    with pytest.raises(ValueError, match="outside RAM"):
        snapshot.look(len(guest.hart.ram) // PAGE)


def test_a_snapshot_ends_with_the_next_one_and_with_its_series() -> None:
    guest = busy_guest()
    series = guest.hart.snapshots()
    first = series.begin()
    second = series.begin(changed=True)
    assert first.left == 0 and len(first.take(8)) == 0 and second.pages == 0
    series.close()
    series.close()
    assert len(second.take(8)) == 0 and second.look(0) is None
    with pytest.raises(ValueError, match="closed"):
        series.begin()


def test_a_hart_has_room_for_seven_series_and_a_forgotten_one_makes_room() -> None:
    guest = busy_guest()
    all_of_them = [guest.hart.snapshots() for _ in range(7)]
    with pytest.raises(RuntimeError, match="7 series"):
        guest.hart.snapshots()
    all_of_them.pop()
    again = guest.hart.snapshots()
    assert again.begin(changed=True).pages == len(guest.hart.ram) // PAGE, "a new series begins with everything"


def test_a_snapshot_begins_only_between_epochs() -> None:
    guest = busy_guest()
    series = guest.hart.snapshots()
    seen: list[str] = []

    def device(address: int, size: int, value: int) -> None:
        try:
            series.begin()
        except RuntimeError as error:
            seen.append(str(error))

    guest.on_write = device
    for entry in script(1):
        step(guest, entry)
    assert seen and "between epochs" in seen[0]


@pytest.mark.parametrize("numbers", [b"\xff\xff\xff\xff", b"\0"])
def test_pages_that_do_not_fit_are_refused(numbers: bytes) -> None:
    guest = Guest()
    for pages in (Pages(numbers, bytes(PAGE)), Pages(b"", b"", numbers)):
        with pytest.raises(ValueError):
            guest.hart.put_pages(pages)
    assert not any(guest.hart.ram)
