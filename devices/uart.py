# SPDX-License-Identifier: GPL-2.0-or-later
"""UART of type ns16550A (National Semiconductor PC16550D, section 8), registers a byte apart, without modem wires.

| offset | DLAB=0 read | DLAB=0 write | DLAB=1 | content                                    |
|--------|-------------|--------------|--------|--------------------------------------------|
| 0      | RBR         | THR          | DLL    | received byte, byte to send, divisor low   |
| 1      | IER         | IER          | DLM    | interrupt enables, divisor high            |
| 2      | IIR         | FCR          |        | interrupt identification, FIFO control     |
| 3      | LCR         | LCR          | LCR    | line control, bit 7 = DLAB                 |
| 4      | MCR         | MCR          | MCR    | modem control, bit 4 = loopback            |
| 5      | LSR         |              |        | line status                                |
| 6      | MSR         |              |        | modem status                               |
| 7      | SCR         | SCR          | SCR    | scratch                                    |

Sending takes no time, so the transmitter is always empty. Input waits in one queue of which the receive FIFO is the
first 16 bytes (1 with FIFOs off): nothing overruns, and clearing the FIFO loses what a real FIFO would lose. A
character timeout is due at once, since no more characters are on a wire.

Output is one stream with a cumulative offset, shared with the SBI console (`put`), and leaves in pieces: at `flush`,
which the machine calls at the end of each epoch, and whenever 4096 bytes have come together.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from devices.device import Device, Line, State
from devices.event import Output, OutputKind

FIFO_SIZE = 16
PIECE = 4096  # Output leaves at the latest when so many bytes have come together.

_TRIGGER = (1, 4, 8, 14)  # FCR bits 7..6: receive trigger level (8.4).


class Register(IntEnum):
    """Offsets (8.0, table II)."""

    RBR_THR = 0
    IER = 1
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(IntEnum):
    """Interrupt enable (8.6)."""

    ERBFI = 0x01
    ETBEI = 0x02
    ELSI = 0x04
    EDSSI = 0x08


class Iir(IntEnum):
    """Interrupt identification (8.5): what is due, highest priority first."""

    LINE_STATUS = 0x06
    DATA = 0x04
    TIMEOUT = 0x0C
    THR_EMPTY = 0x02
    NONE = 0x01
    FIFOS = 0xC0


class Fcr(IntEnum):
    """FIFO control (8.4)."""

    ENABLE = 0x01
    CLEAR_RECEIVE = 0x02


class Lsr(IntEnum):
    """Line status (8.3)."""

    DR = 0x01
    OE = 0x02
    THRE = 0x20
    TEMT = 0x40


DLAB = 0x80
MCR_LOOP = 0x10
MSR_CONNECTED = 0xB0  # DCD, DSR, CTS: a terminal is there (8.8).

_IDLE = int(Lsr.THRE | Lsr.TEMT)
_DR = int(Lsr.DR)
_OE = int(Lsr.OE)
_LSR = int(Register.LSR)
_THR = int(Register.RBR_THR)


class Uart(Device):
    """The console's UART."""

    size = 0x100

    def __init__(self, line: Line, emit: Callable[[Output], None], unit: int = 0) -> None:
        self._line = line
        self._emit = emit
        self._unit = unit
        self._input = bytearray()
        self._output = bytearray()
        self._offset = 0  # of the first byte of _output in the stream
        self._level = False
        self._clear()

    def _clear(self) -> None:
        self._ier = self._fcr = self._lcr = self._mcr = self._scr = 0
        self._divisor = 0
        self._overrun = 0
        self._thr_due = False  # The transmitter became empty and the driver was not told yet.

    # The host's side

    def input(self, data: bytes) -> None:
        """Bytes typed at the console; they wait until the guest reads them."""
        self._input += data
        self._update()

    def put(self, data: bytes) -> None:
        """Bytes for the console stream from elsewhere in the machine (the SBI console)."""
        self._output += data
        if len(self._output) >= PIECE:
            self.flush()

    def take(self, limit: int) -> bytes:
        """Up to `limit` typed bytes, for elsewhere in the machine (the SBI console)."""
        data = bytes(self._input[:limit])
        del self._input[:limit]
        self._update()
        return data

    @property
    def written(self) -> int:
        """Bytes of output ever."""
        return self._offset + len(self._output)

    def flush(self) -> None:
        """Emits what the guest has written since the last output."""
        if self._output:
            data = bytes(self._output)
            self._output.clear()
            offset = self._offset
            self._offset += len(data)
            self._emit(Output(OutputKind.CONSOLE, self._unit, data, offset))

    # The guest's side

    def _identify(self) -> int:
        """The interrupt that is due, by priority (8.5, table IV)."""
        if self._overrun and self._ier & Ier.ELSI:
            return int(Iir.LINE_STATUS)
        if self._input and self._ier & Ier.ERBFI:
            if not self._fcr & Fcr.ENABLE or len(self._input) >= _TRIGGER[self._fcr >> 6]:
                return int(Iir.DATA)
            return int(Iir.TIMEOUT)
        if self._thr_due and self._ier & Ier.ETBEI:
            return int(Iir.THR_EMPTY)
        return int(Iir.NONE)

    def _update(self) -> None:
        level = self._ier != 0 and self._identify() != Iir.NONE
        if level != self._level:
            self._level = level
            self._line(level)

    def read(self, offset: int, size: int) -> int:
        """Reads a register; a wider access reads the one at its offset."""
        if offset == _LSR:
            return self._read_lsr()
        if offset == Register.RBR_THR:
            return self._divisor & 0xFF if self._lcr & DLAB else self._receive()
        if offset == Register.IER:
            return self._divisor >> 8 if self._lcr & DLAB else self._ier
        if offset == Register.IIR_FCR:
            return self._read_iir()
        if offset == Register.LCR:
            return self._lcr
        if offset == Register.MCR:
            return self._mcr
        if offset == Register.MSR:
            return self._read_msr()
        return self._scr if offset == Register.SCR else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes a register; a wider access writes its low byte to the one at its offset."""
        value &= 0xFF
        if offset == _THR and not self._lcr & DLAB:
            self._send(value)
        elif offset == Register.RBR_THR:
            self._divisor = self._divisor & 0xFF00 | value
        elif offset == Register.IER and self._lcr & DLAB:
            self._divisor = self._divisor & 0xFF | value << 8
        elif offset == Register.IER:
            self._write_ier(value & 0x0F)
        elif offset == Register.IIR_FCR:
            self._write_fcr(value)
        elif offset == Register.LCR:
            self._lcr = value
        elif offset == Register.MCR:
            self._mcr = value & 0x1F
        elif offset == Register.SCR:
            self._scr = value

    def _receive(self) -> int:
        if not self._input:
            return 0
        value = self._input[0]
        del self._input[0]
        self._update()
        return value

    def _send(self, value: int) -> None:
        if self._mcr & MCR_LOOP:
            self._loop_back(value)
        else:
            self._output.append(value)
            if len(self._output) >= PIECE:
                self.flush()
        self._thr_due = True  # Sent at once: the transmitter is empty again.
        self._update()

    def _loop_back(self, value: int) -> None:
        if len(self._input) < (FIFO_SIZE if self._fcr & Fcr.ENABLE else 1):
            self._input.append(value)
        else:
            self._overrun = _OE

    def _read_lsr(self) -> int:
        status = _IDLE | self._overrun
        if self._input:
            status |= _DR
        if self._overrun:
            self._overrun = 0
            self._update()
        return status

    def _read_iir(self) -> int:
        due = self._identify()
        if due == Iir.THR_EMPTY:  # Reading it is the acknowledgement (table IV).
            self._thr_due = False
            self._update()
        return due | (int(Iir.FIFOS) if self._fcr & Fcr.ENABLE else 0)

    def _read_msr(self) -> int:
        if not self._mcr & MCR_LOOP:
            return MSR_CONNECTED
        dtr, rts, outs = self._mcr & 1, self._mcr >> 1 & 1, self._mcr >> 2 & 3
        return rts << 4 | dtr << 5 | outs << 6  # CTS, DSR, RI, DCD follow RTS, DTR, OUT1, OUT2 (8.7).

    def _write_ier(self, value: int) -> None:
        if value & ~self._ier & Ier.ETBEI:
            self._thr_due = True
        self._ier = value
        self._update()

    def _write_fcr(self, value: int) -> None:
        if value & Fcr.CLEAR_RECEIVE or (value ^ self._fcr) & Fcr.ENABLE:
            del self._input[: FIFO_SIZE if self._fcr & Fcr.ENABLE else 1]
        self._fcr = value & 0xC9 if value & Fcr.ENABLE else 0
        self._update()

    # State

    def reset(self) -> None:
        """Clears registers and unread input; the stream of output goes on."""
        self._input.clear()
        self._clear()
        self._update()

    def save(self) -> State:
        """All registers, unread input and output not yet emitted."""
        registers = [self._ier, self._fcr, self._lcr, self._mcr, self._scr, self._divisor, self._overrun]
        return {
            "registers": registers,
            "flags": int(self._thr_due) | int(self._level) << 1,
            "input": bytes(self._input),
            "output": bytes(self._output),
            "offset": self._offset,
        }

    def restore(self, state: State) -> None:
        """Takes `state` over."""
        registers = [value & 0xFF for value in state["registers"][:5]] + state["registers"][5:]
        self._ier, self._fcr, self._lcr, self._mcr, self._scr, self._divisor, self._overrun = registers
        self._thr_due, self._level = bool(state["flags"] & 1), bool(state["flags"] & 2)
        self._input = bytearray(state["input"])
        self._output = bytearray(state["output"])
        self._offset = state["offset"]
