# SPDX-License-Identifier: GPL-2.0-or-later
"""The CURVE keys of a pair's logging channel, in a file that only its owner may read.

    public = "40 characters of Z85"
    secret = "40 characters of Z85"
    peers = ["..."]                      # public keys that are let in; without it, the pair's own

One file on both hosts is the simple way: whoever knows the secret belongs to the pair. With a key pair for each host,
`peers` names the other one's public key.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.config_error import ConfigError
from logging_channel.errors import ChannelError
from logging_channel.transport import Keys, new_keys

_KNOWN = {"public", "secret", "peers"}


def load_keys(config: MachineConfig) -> Keys | None:
    """The keys that a machine file names, or None; ConfigError when they cannot be used."""
    return None if config.keys_path is None else read_keys(config.keys_path)


def read_keys(path: Path) -> Keys:
    """The keys in a file; refused when others could have read them."""
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"pair.keys: {path} can be read by others; do: chmod 600 {path}")
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"pair.keys: {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"pair.keys: {path} is not a key file: {error}") from None
    public, secret = table.get("public"), table.get("secret")
    peers = table.get("peers", [public])
    if set(table) - _KNOWN or not all(isinstance(key, str) for key in (public, secret)):
        raise ConfigError(f"pair.keys: {path} must hold public and secret, and may hold peers; nothing else")
    if not isinstance(peers, list) or not peers or not all(isinstance(key, str) for key in peers):
        raise ConfigError(f"pair.keys: {path}: peers must be a list of public keys")
    try:
        return Keys(str(public).encode(), str(secret).encode(), tuple(key.encode() for key in peers))
    except ChannelError as error:
        raise ConfigError(f"pair.keys: {path}: {error}") from None


def write_keys(path: Path) -> None:
    """A new key pair, in a new file that only its owner may read."""
    keys = new_keys()
    # Z85 uses neither quotes nor backslashes, so the keys are TOML strings as they are.
    text = f'public = "{keys.public.decode()}"\nsecret = "{keys.secret.decode()}"\n'
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; its keys may be in use") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
