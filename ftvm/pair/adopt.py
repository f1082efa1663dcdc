# SPDX-License-Identifier: GPL-2.0-or-later
"""The listening sockets of a pair that runs already: a new launcher takes them over from a living side.

The kernel hands out a copy of another process's descriptor (pidfd_getfd(2)), also of a stopped process. Without the
right to do that, the addresses cannot be shared by sides that are started later, and that is told in words.
"""

from __future__ import annotations

import ctypes
import os
import socket

from ftvm.config import MachineConfig
from ftvm.pair.services import ServiceError, open_services
from ftvm.process import Process
from ftvm.state_dir import SIDES, StateDir, read_json

_PIDFD_GETFD = 438  # the same number on every architecture that has it


def services_of(config: MachineConfig, state: StateDir) -> list[socket.socket]:
    """The sockets that a living side holds, or new ones when no side lives."""
    if config.service_block is None:
        return []
    for side in SIDES:
        fields = read_json(state.status(side))
        process, descriptors = Process.load(fields.get("process")), fields.get("service_fds")
        if process is not None and process.alive and isinstance(descriptors, list):
            return [_take(process, int(descriptor)) for descriptor in descriptors]
    return open_services(config, state)


def _take(process: Process, descriptor: int) -> socket.socket:
    try:
        pidfd = os.pidfd_open(process.pid)
        try:
            library = ctypes.CDLL(None, use_errno=True)
            copied = library.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
            if copied < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            return socket.socket(fileno=copied)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise ServiceError(
            f"the listening sockets of process {process.pid} cannot be taken over ({error.strerror}): run as its user, "
            "or stop the pair and start it again"
        ) from None
