# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening sockets of a pair's services, opened once and inherited by every side, so that clients' connections wait
in one queue for whoever is live."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ftvm.config import MachineConfig
from ftvm.config_values import TcpAddress
from ftvm.state_dir import StateDir
from ftvm.world.unix_listener import listen_unix

BACKLOG = 64


class ServiceError(Exception):
    """A service's address cannot be had; the message names it."""


def open_services(config: MachineConfig, state: StateDir) -> list[socket.socket]:
    """One listening socket for each address of the block service; ServiceError when one cannot be had."""
    block = config.service_block
    sockets: list[socket.socket] = []
    for address in () if block is None else block.listen:
        try:
            if isinstance(address, TcpAddress):
                sockets.append(_listen_tcp(address))
            else:
                sockets.append(listen_unix(state.resolve(address.path)))
        except OSError as error:
            for opened in sockets:
                opened.close()
            raise ServiceError(f"service.block.listen: {address}: {error.strerror or error}") from None
    return sockets


def inherit(descriptors: Sequence[int]) -> list[socket.socket]:
    """Sockets that a parent process has opened."""
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def addresses(config: MachineConfig, state: StateDir, sockets: Sequence[socket.socket]) -> list[str]:
    """Where clients find the service, with the real ports."""
    block = config.service_block
    found = []
    for address, sock in zip(() if block is None else block.listen, sockets, strict=True):
        if isinstance(address, TcpAddress):
            found.append(str(TcpAddress(address.host, sock.getsockname()[1])))
        else:
            found.append(f"unix:{state.resolve(address.path)}")
    return found


def _listen_tcp(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
