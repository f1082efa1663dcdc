# SPDX-License-Identifier: GPL-2.0-or-later
"""`ImageMetadata`: what one side durably knows about its own images, in image.json beside them.

    state     written before                        the images then are
    --------- ------------------------------------- ----------------------------------------------------------------
    new       the pair's first term is asked for    as the user gave them, on both sides
    joining   a primary's copy begins to arrive     a mixture: worth nothing
    in-sync   (soon after acknowledging protected)  the primary's of `term`, a little behind
    live      anything leaves the side in `term`    the newest there are, while nobody takes a later term over
    clean     the side's process ends               complete: the guest had ended in `term`

`took_over` is the last term that this side won *and* took over: it had executed every entry it ever acknowledged. A
side that wins a term and dies before that leaves `took_over` behind, and then nothing ever left the pair in that term.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ftvm.disk.errors import DiskRefused
from ftvm.disk.storage import sync_directory

FORMAT: Final = 1
NAME: Final = "image.json"


class ImageState(StrEnum):
    """What the images of a side are; see the table above."""

    NEW = "new"
    JOINING = "joining"
    IN_SYNC = "in-sync"
    LIVE = "live"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """One side's note. `sequence` is the entry at which it was written: for people, nothing is decided by it."""

    pair: str
    term: int = 0
    sequence: int = 0
    state: ImageState = ImageState.NEW
    took_over: int = 0


def read_metadata(directory: Path) -> ImageMetadata | None:
    """The note beside the images in `directory`, None when there is none. DiskRefused when it is damaged."""
    path = directory / NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DiskRefused(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _decode(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise DiskRefused(
            f"{path} is damaged ({error}): move this side's directory away, and start with the other side's images"
        ) from error


def _decode(fields: Any) -> ImageMetadata:
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, this ftvm reads {FORMAT}")
    numbers = [fields["term"], fields["sequence"], fields["took_over"]]
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(fields["pair"], str):
        raise ValueError("a field has the wrong type")
    return ImageMetadata(
        pair=fields["pair"],
        term=fields["term"],
        sequence=fields["sequence"],
        state=ImageState(fields["state"]),
        took_over=fields["took_over"],
    )


def write_metadata(directory: Path, metadata: ImageMetadata) -> None:
    """Replace the note atomically and durably. Raises OSError."""
    path = directory / NAME
    temporary = directory / (NAME + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **asdict(metadata)}, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(directory)


class ImageLedger:
    """Keeps the note of one side's directory; each method returns when the note is durable."""

    def __init__(self, directory: Path, pair: str) -> None:
        """Reads the note, or writes that the images are new. DiskRefused when the images belong to another pair."""
        self.directory = directory
        found = read_metadata(directory)
        if found is not None and found.pair != pair:
            raise DiskRefused(
                f"the images in {directory} belong to the pair {found.pair!r}, not to {pair!r}: use another directory"
            )
        self.metadata = found or ImageMetadata(pair)
        if found is None:
            write_metadata(directory, self.metadata)

    def joining(self) -> None:
        """The images are about to be overwritten by a primary's."""
        self._note(replace(self.metadata, state=ImageState.JOINING))

    def in_sync(self, term: int, sequence: int) -> None:
        """The images follow the primary's of this term."""
        self._note(replace(self.metadata, state=ImageState.IN_SYNC, term=term, sequence=sequence))

    def took_over(self, term: int, sequence: int) -> None:
        """This side is live in `term`, and its images hold all that was ever acknowledged."""
        pair = self.metadata.pair
        self._note(ImageMetadata(pair, term=term, sequence=sequence, state=ImageState.LIVE, took_over=term))

    def ended(self, sequence: int) -> None:
        """The guest has ended, and the images are complete and synced."""
        self._note(replace(self.metadata, state=ImageState.CLEAN, sequence=sequence))

    def _note(self, metadata: ImageMetadata) -> None:
        write_metadata(self.directory, metadata)
        self.metadata = metadata
