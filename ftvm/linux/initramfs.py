# SPDX-License-Identifier: GPL-2.0-or-later
"""The first root file system of a stock kernel: busybox, the kernel's modules for our devices, and `init`.

    init                    the script beside this file: mounts, loads modules, sets the address, starts script or shell
    bin, sbin, lib          links to usr/..., as in Debian
    usr/bin/busybox         static; `init` makes links for what it can do
    usr/bin/translate       serves a block device to the clients of the block service (guests/translate)
    usr/lib/modules/NAME.ko, etc/modules     modules and the order in which they are loaded
    ...                     programs of further packages with the shared libraries that they need

Nothing of it depends on where or when it is made: the same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from ftvm.guests import catalog
from ftvm.linux.errors import FetchError
from ftvm.linux.libraries import needed_libraries
from ftvm.linux.modules import Modules
from ftvm.linux.newc import Tree, character, directory, from_directory, link, regular

MODULES: Final = (
    *("virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng"),
    *("crc32c_generic", "ext4", "autofs4"),  # autofs4: systemd complains without
)
_MERGED: Final = ("bin", "sbin", "lib")  # links into usr
_EMPTY: Final = ("dev", "proc", "sys", "mnt", "tmp", "run", "root", "etc", "var")
_LEFT_OUT: Final = ("usr/share/", "usr/include/", "usr/lib/systemd/", "etc/cron", "etc/init.d/")


def initramfs(root: Path, modules: Sequence[str], packages: Sequence[Path], overlay: Path | None) -> Tree:
    """The tree, from the unpacked packages in `root`; `packages` are directories with further ones, one each.

    `overlay` is laid over it last. FetchError when something is not there.
    """
    tree: Tree = {name: directory() for name in _EMPTY}
    tree |= {name: link(f"usr/{name}") for name in _MERGED} | {f"usr/{name}": directory() for name in _MERGED}
    tree["dev/console"] = character(5, 1)
    tree |= {name: regular(path.read_bytes(), 0o755) for name, path in _own().items()}
    tree["usr/bin/busybox"] = regular(_read(root / "usr/bin/busybox"), 0o755)
    tree |= _modules(root, (*MODULES, *modules))
    extra: Tree = {}
    for package in packages:
        extra |= {name: node for name, node in from_directory(package).items() if not name.startswith(_LEFT_OUT)}
    if extra:
        extra |= needed_libraries(extra.values(), root)
    tree |= {_merged(name): node for name, node in extra.items() if name not in _MERGED}
    if overlay is not None:
        tree |= {_merged(name): node for name, node in from_directory(overlay).items() if name not in _MERGED}
    return tree


def _own() -> dict[str, Path]:
    """What comes from ftvm itself."""
    init = Path(str(resources.files("ftvm.linux").joinpath("init")))
    return {"init": init, "usr/bin/translate": catalog.directory() / "translate.elf"}


def own_digest() -> str:
    """SHA-256 of ftvm's own files in every initramfs, in hexadecimal: with others, it has to be made again."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _own().values())).hexdigest()


def _modules(root: Path, names: Sequence[str]) -> Tree:
    directories = sorted((root / "usr/lib/modules").glob("*"))
    if len(directories) != 1:
        raise FetchError(f"{root}: {len(directories)} kernels' modules instead of one's")
    ordered = Modules(directories[0]).in_order(names)
    tree = {f"usr/lib/modules/{name}.ko": regular(content) for name, content in ordered.items()}
    tree["etc/modules"] = regular("".join(f"{name}\n" for name in ordered).encode())
    return tree


def _merged(name: str) -> str:
    """Where a file really goes: what a package or an overlay puts in /bin, /sbin or /lib lies in /usr."""
    return f"usr/{name}" if name.partition("/")[0] in _MERGED else name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FetchError(f"{path}: {error.strerror}") from None
