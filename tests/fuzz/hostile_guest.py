# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated guests on the whole machine: whatever they do, the host neither crashes, hangs nor grows, and they do it
again in the same way.

A seed is a guest: fragments in random order (random instructions; loads and stores all over the devices; virtio queues
that are set up properly and then filled with nonsense; firmware calls with random registers; page tables; timers and
interrupts), a trap handler that skips what trapped, random contents of RAM, and a world that sends events of every
kind. It is run twice, the second time on machines that are replaced by restored ones now and then: every epoch's
result, all outputs and the digest of RAM must be the same.

This runs in a process of its own, which names each seed before it runs it. Replay one: `python -m tests.fuzz
hostile-guest --seed N --cases 1`.
"""

from __future__ import annotations

import faulthandler
import gc
import resource
import subprocess
import sys
import time
from random import Random
from zlib import crc32

from devices.event import Event, EventKind
from devices.virtio.mmio import Register
from ftvm import board
from ftvm.config import MachineConfig
from ftvm.machine import FINAL, RESET, EpochEnd
from ftvm.service.request import encode_close, encode_request
from replay.entry import EntryFlag
from tests.ftvm.asm import Asm
from tests.ftvm.test_hart_hostile import INTERESTING, random_word
from tests.fuzz.engine import ROOT
from tests.fuzz.mutate import NUMBERS
from tests.machine.box import ENTRY, MIB, Box, blockd_config
from tests.machine.code import Ring, store

EPOCHS = 14
EPOCH_SECONDS_MAX = 20.0  # of processor time; an epoch here is at most 60,000 bytes of code
GROWTH_MAX = 700 << 20  # bytes of memory of the process, all of a guest's machines of 16 MiB included
DEAD_AFTER_S = 240
TABLES = ENTRY + 0x20_0000
RINGS = ENTRY + 0x30_0000
HANDLER = ENTRY + 0x40_0000
SLOTS = (("disk", 1), ("network", 2), ("port", 6), ("entropy", 1))  # and their queues
WINDOWS = [board.UART_BASE, board.RTC_BASE, board.PLIC_BASE, board.PLIC_BASE + 0x2080, board.PLIC_BASE + 0x201000]
WINDOWS += [board.VIRTIO_BASE + slot * board.VIRTIO_SIZE for slot in range(board.VIRTIO_SLOTS)]
EXTENSIONS = [0, 1, 1, 2, 4, 5, 6, 7, 0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x4442434E, 0x53525354]


class Generator:
    """Writes one guest."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(f"guest {seed}")
        self.code = Asm(ENTRY)
        self.rings: list[Ring] = []
        self._offered: dict[Ring, int] = {}
        self._fragments = [
            self._instructions, self._instructions, self._mmio, self._mmio, self._mmio, self._firmware, self._firmware,
            self._queue, self._queue, self._queue, self._fill, self._fill, self._fill, self._paging, self._interrupts,
            self._timer,
        ]  # fmt: skip

    def value(self) -> int:
        """A number that somebody trips over."""
        chance = self.chance
        return chance.choice((chance.choice(INTERESTING), chance.choice(NUMBERS), chance.getrandbits(64), RINGS))

    def guest(self) -> Asm:
        """The whole guest."""
        code, chance = self.code, self.chance
        code.li("t0", HANDLER)
        code.csrw("stvec", "t0")
        code.li("t0", 3 << 13 | 1 << 18)
        code.csrs("sstatus", "t0")
        code.label("again")
        for _ in range(chance.randint(4, 24)):
            chance.choice(self._fragments)()
        code.la("t0", "again")
        code.jalr("zero", 0, "t0")
        assert code.here < TABLES
        self._tables()
        code.at(RINGS)
        code.code += chance.randbytes(0x8000)
        code.at(HANDLER)
        self._handler()
        return code

    def _handler(self) -> None:
        """Skips what trapped, is done with an interrupt, and after a fetch fault begins again."""
        code = self.code
        code.csrr("t5", "scause")
        code.bge("t5", "zero", "exception")
        code.li("t5", 1 << 5)
        code.csrc("sie", "t5")
        code.li("t5", board.PLIC_BASE + 0x201004)
        code.lwu("t6", 0, "t5")
        code.sw("t6", 0, "t5")
        code.sret()
        code.label("exception")
        code.andi("t5", "t5", 0x7F2)
        code.csrr("t6", "sepc")
        code.addi("t6", "t6", 4)
        code.bnez("t5", "skip")
        code.la("t6", "again")
        code.label("skip")
        code.csrw("sepc", "t6")
        code.sret()

    # Fragments

    def _instructions(self) -> None:
        for register in self.chance.sample(range(5, 32), 6):
            self.code.li("t0", self.value())
            self.code.addi(register, "t0", 0)
        for _ in range(self.chance.randint(3, 40)):
            self.code.word(random_word(self.chance))

    def _mmio(self) -> None:
        code, chance = self.code, self.chance
        for _ in range(chance.randint(1, 12)):
            offset = chance.choice((chance.choice(list(Register)), chance.randrange(0x120), 4 * chance.randrange(1024)))
            code.li("t0", chance.choice(WINDOWS) + offset)
            if chance.random() < 0.4:
                getattr(code, chance.choice(("lb", "lhu", "lw", "lwu", "ld")))("t1", 0, "t0")
            else:
                code.li("t1", chance.choice((0, 1, 4, 15, self.value())))
                getattr(code, chance.choice(("sb", "sh", "sw", "sw", "sw", "sd")))("t1", 0, "t0")

    def _firmware(self) -> None:
        code, chance = self.code, self.chance
        extension = chance.choice((*EXTENSIONS, chance.getrandbits(32)))
        function = chance.choice((0, 0, 1, 2, 3, self.value()))
        if extension in (8, 0x53525354) and chance.random() < 0.9:
            extension = 0x4442434E
        for register in range(6):
            code.li(f"a{register}", chance.choice((0, 1, 100, ENTRY, RINGS, self.value())))
        code.sbi(extension, function)

    def _queue(self) -> None:
        """A queue set up as it should be, of some device."""
        chance = self.chance
        slot = chance.randrange(len(SLOTS))
        place = RINGS + chance.choice((0, 0x4000, 0x100 * chance.randrange(0x40)))
        ring = Ring(slot, place, chance.choice((1, 4, 8, 64, 256)), chance.randrange(SLOTS[slot][1]))
        if chance.random() < 0.9:
            store(self.code, ring.avail, 0, "sd")
        ring.start(self.code)
        self.rings.append(ring)
        self._offered[ring] = 0

    def _fill(self) -> None:
        """Descriptors, some right and some wrong, and a notification."""
        if not self.rings:
            self._queue()
        chance, code = self.chance, self.code
        ring = chance.choice(self.rings)
        if chance.random() < 0.6:
            self._fill_well(ring)
            return
        for index in range(chance.randint(1, 5)):
            address = chance.choice((ring.buffers, RINGS, ENTRY, ring.desc, ring.used, self.value()))
            address &= (1 << 64) - 1
            length = chance.choice((0, 1, 8, 12, 16, 512, 528, 4096, 65536, MIB, self.value())) & 0xFFFF_FFFF
            flags = chance.choice((0, 1, 1, 2, 3, 3, 4, chance.randrange(16)))
            ring.describe(code, index, address, length, flags, chance.choice((index + 1, 0, chance.randrange(300))))
        if chance.random() < 0.5:  # the header of a block request
            store(code, ring.buffers, chance.choice((0, 1, 4, 8, 11, 13, 99)), "sd")
            store(code, ring.buffers + 8, chance.choice((0, 1, 2047, 2048, self.value())), "sd")
        heads = [chance.choice((0, 0, 0, index, chance.getrandbits(16))) for index in range(chance.randint(1, 6))]
        self._offer(ring, heads, chance.choice((0, 0, 0, 1, ring.num, chance.getrandbits(16))))

    def _fill_well(self, ring: Ring) -> None:
        """A chain as a driver would make it: something to read, something to write, perhaps the same many times."""
        chance, code = self.chance, self.code
        head, data = ring.buffers, chance.choice((ring.buffers + 64, RINGS, ENTRY, HANDLER + 0x1000))
        store(code, head, chance.choice((0, 0, 1, 4, 8, 11, 13, 3 << 32 | 1)), "sd")
        store(code, head + 8, chance.choice((0, 1, 7, 2046)), "sd")
        lengths = [chance.choice((512, 1024, 4096, 64, 1)) for _ in range(chance.choice((1, 1, 2)))]
        write = chance.choice((0, 2))
        ring.describe(code, 0, head, 16, 1, 1)
        for index, length in enumerate(lengths, 1):
            ring.describe(code, index, data, length, 1 | write, index + 1)
        ring.describe(code, len(lengths) + 1, head + 32, 1, 2)
        first = chance.choice((0, 0, 1, len(lengths) + 1))  # the queues of some devices want only one kind
        self._offer(ring, [first] * chance.choice((1, 1, 2, 4)), 0)

    def _offer(self, ring: Ring, heads: list[int], ahead: int) -> None:
        """Behind what was offered before; `ahead` of what is there."""
        done = self._offered[ring]
        for slot, head in enumerate(heads, done):
            store(self.code, ring.avail + 4 + 2 * (slot % ring.num), head, "sh")
        self._offered[ring] = done + min(len(heads), ring.num)
        store(self.code, ring.avail + 2, self._offered[ring] + ahead, "sh")
        ring.notify(self.code)

    def _paging(self) -> None:
        """On with the tables that lie in RAM, of which one entry maps where the code is; or off."""
        self.code.li("t0", self.chance.choice((0, 8 << 60 | TABLES >> 12, 8 << 60 | TABLES >> 12, self.value())))
        self.code.csrw("satp", "t0")
        if self.chance.random() < 0.7:
            self.code.sfence_vma()

    def _tables(self) -> None:
        chance, page = self.chance, board.RAM_BASE >> 12 << 10
        self.code.at(TABLES)
        entries = [
            chance.choice((0, page | chance.getrandbits(8), TABLES >> 12 << 10 | 1, chance.getrandbits(64)))
            for _ in range(512)
        ]
        entries[0] = 0xCF if chance.random() < 0.8 else entries[0]  # devices, where they are
        entries[2] = page | 0xCF
        self.code.code += b"".join(entry.to_bytes(8, "little") for entry in entries)

    def _interrupts(self) -> None:
        code, chance = self.code, self.chance
        source = chance.randint(0, board.PLIC_SOURCES + 2)
        store(code, board.PLIC_BASE + 4 * source, chance.choice((0, 1, 7)))
        store(code, board.PLIC_BASE + 0x2080, chance.getrandbits(32))
        code.li("t0", chance.choice((0x222, 0x200, 0)))
        code.csrw("sie", "t0")
        code.csrrsi("zero", "sstatus", chance.choice((0, 2)))
        if chance.random() < 0.3:
            code.wfi()

    def _timer(self) -> None:
        self.code.csrr("a0", "time")
        self.code.addi("a0", "a0", self.chance.choice((-1, 0, 1, 50, 2000)))
        self.code.sbi(0x54494D45)


def config_of(seed: int) -> MachineConfig:
    """A machine with everything; a quarter of them restart a driver that dies."""
    return blockd_config(network=[{}], driver={"restart": seed % 4 == 0, "watchdog_ms": 100})


def events(chance: Random, box: Box) -> list[Event]:
    """What comes from outside in one epoch."""
    journal = box.machine.journal
    assert journal is not None
    found = []
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        kind = chance.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 7))
        data = chance.randbytes(chance.choice((0, 1, 14, 60, 1514)))
        if kind == EventKind.BLOCK_REQUEST:
            if any(event.kind in (4, 5) for event in found):
                continue
            connection = chance.choice([journal.next_number, *journal.open_connections])
            data = encode_request(connection, chance.choice((0, 1, 3, 4, 6)), 0, 512, 512, bytes(512))
        elif kind == EventKind.BLOCK_CLOSE:
            if not journal.open_connections or any(event.kind == 5 for event in found):
                continue
            data = encode_close(chance.choice(journal.open_connections))
        elif kind == EventKind.CONTROL:
            if chance.random() < 0.9:
                continue
            data = RESET
        elif kind == EventKind.LINK:
            data = chance.choice((b"\0", b"\1"))
        found.append(Event(kind, 0, data))
    return found


def run_guest(seed: int, restored: bool) -> list[tuple[object, ...]]:
    """One life of a guest: its trace."""
    chance, swaps = Random(f"world {seed}"), Random(f"swaps {seed}")
    box = Box(config_of(seed))
    box.boot(Generator(seed).guest())
    for _ in range(EPOCHS):
        arrived = events(chance, box)
        start = time.process_time()
        flags = EntryFlag.DIGEST_PAGES if chance.random() < 0.5 else 0
        budget, later = chance.choice((200, 3000, 20_000, 60_000)), chance.choice((0, 0, 10, 100_000))
        result = box.run(*arrived, budget=budget, ticks=chance.choice((0, 100, 5000)), later=later, flags=flags)
        spent = time.process_time() - start
        assert spent < EPOCH_SECONDS_MAX, f"an epoch of {budget} took {spent:.1f} s"
        assert result.reason in EpochEnd._value2member_map_
        if result.reason in FINAL:
            break
        if restored and swaps.random() < 0.4:
            box.restore()
    trace = box.trace()
    trace.append((crc32(box.machine.hart.ram), box.notices, box.disks[0].read(0, MIB)))
    box.machine.close()
    return trace


def check_guest(seed: int) -> None:
    """Both lives of one guest."""
    original, restored = run_guest(seed, False), run_guest(seed, True)
    for number, (one, two) in enumerate(zip(original, restored, strict=True)):
        assert one == two, f"seed {seed}: epoch {number} differs:\n{str(one)[:400]}\n{str(two)[:400]}"
    gc.collect()  # a machine is a ring of references, and its RAM is large
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert used < GROWTH_MAX, f"the process has grown to {used >> 20} MiB"


def child(first: int, seconds: float, count: int) -> None:
    """Run guests until time or seeds are used up; each seed is named before."""
    faulthandler.enable()
    end = time.monotonic() + seconds
    for seed in range(first, first + count):
        if time.monotonic() >= end:
            break
        faulthandler.dump_traceback_later(DEAD_AFTER_S, exit=True)
        print(seed, flush=True)
        check_guest(seed)
        faulthandler.cancel_dump_traceback_later()


def main(first: int, seconds: float, count: int) -> int:
    """The campaign: guests in a process of their own; says which one hurt."""
    command = [sys.executable, "-m", "tests.fuzz.hostile_guest", str(first), str(seconds), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seeds = result.stdout.split()
    if result.returncode == 0:
        print(f"hostile-guest: seeds {first} to {seeds[-1]}: nothing found")
        return 0
    print(f"hostile-guest: exit {result.returncode} in seed {seeds[-1] if seeds else '?'}\n{result.stderr[-4000:]}\n"
          f"replay: python -m tests.fuzz hostile-guest --seed {seeds[-1] if seeds else first} --cases 1",
          file=sys.stderr)  # fmt: skip
    return 1


if __name__ == "__main__":
    child(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
