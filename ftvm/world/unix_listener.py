# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening Unix sockets at any path: longer than the 108 bytes of sockaddr_un, and over what a killed process left.

The socket is bound under a fresh name and then renamed, so the name always leads to a listening socket or to nothing,
and the side that is live takes it over from one that died without asking whether anybody is still there. The directory
is named by descriptor (`/proc/self/fd/N/name`), which is always short enough.
"""

from __future__ import annotations

import os
import socket
import stat
import uuid
from pathlib import Path

BACKLOG = 64
MODE = 0o600


def listen_unix(path: Path) -> socket.socket:
    """A non-blocking listening socket at `path`; OSError in words when something else than a socket is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(17, "is there already and is not a socket", str(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        temporary = f".{uuid.uuid4().hex[:12]}.sock"
        listener.bind(f"/proc/self/fd/{directory}/{temporary}")
        os.chmod(temporary, MODE, dir_fd=directory)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def connect_unix(path: Path, timeout_seconds: float = 5.0) -> socket.socket:
    """A connection to the socket at `path`, however long the path is."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_seconds)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection
