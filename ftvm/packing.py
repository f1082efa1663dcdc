# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes packs (replay/pack.py) of recordings, and finds the images in them.

The images go in as their files are, so the log's digests of them hold; the machine file is in the log's header anyway.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ftvm.checkpoints import checkpoints_of
from ftvm.config import MachineConfig
from ftvm.config_text import to_toml
from ftvm.image import ImageFiles, image_files, load_image
from ftvm.replaying import config_of_log, images_in
from replay.errors import LogError
from replay.header import LogHeader, image_differences
from replay.log_scan import Scan
from replay.pack import file_pieces, write_pack
from replay.record import frame_preamble


def pack(
    log: Path,
    out: Path,
    machine_file: Path | None = None,
    checkpoints: bool = True,
    progress: Callable[[int], None] = lambda size: None,
    images: ImageFiles | None = None,
) -> list[str]:
    """Write the pack; the names of what is in it beside the log. `progress` hears of bytes of the log.

    `images` stand in for those that the machine file names.

    LogError, ConfigError or ImageError: the images are not those of the recording, the log is damaged, `out` exists.
    """
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LogError(f"cannot open the log {log}: {error.strerror}") from None
    try:
        scan = Scan(fd, log)
        config = config_of_log(log, scan.header, machine_file)
        if images is None and machine_file is None:
            images = images_in(log)
        images = image_files(config, images)
        _check(log, scan.header, config, images)
        for _ in scan:
            pass
        header = scan.header if scan.header.machine else replace(scan.header, machine=to_toml(config).encode())
        file = checkpoints_of(log, header) if checkpoints else None
        try:
            kept = None if file is None else file.stored_file()
            write_pack(out, images, kept, _log(fd, scan, header, progress))
        finally:
            if file is not None:
                file.close()
    finally:
        os.close(fd)
    return [*images, *(["checkpoints"] if kept is not None else [])]


def _check(log: Path, header: LogHeader, config: MachineConfig, images: ImageFiles) -> None:
    wrong = image_differences(header.images, load_image(config, images).digests)
    if config.digest() != header.configuration:
        wrong.append("the machine file describes another machine")
    if wrong:
        raise LogError(f"{log}: cannot be packed with these images: " + "; ".join(wrong))


def _log(fd: int, scan: Scan, header: LogHeader, progress: Callable[[int], None]) -> Iterator[bytes]:
    """The log without a torn tail."""
    yield frame_preamble(header.encode())
    for piece in file_pieces(fd, scan.start, scan.end):
        yield piece
        progress(len(piece))
