# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes `LOG.ckpt` smaller: some checkpoints go, and leave to the next one what that does not have.

Which ones go is `Stills`' rule (replay/stills.py): dense near the end, thin towards the past. The file is written anew,
beside the old one: groups of pieces are copied as they are stored, those of which less than half is left are packed
together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from replay.checkpoint_file import NONE, Blob, Checkpoint, CheckpointFile, Layer, Mark
from replay.checkpoint_writer import CheckpointWriter
from replay.stills import cheapest

Piece = tuple[Layer, int] | None  # a piece in a layer of the old file; None: it is all zero
OVERHEAD: Final = 16  # bytes of a piece beside its content


@dataclass(slots=True)
class _Merged:
    """A checkpoint with what it has inherited."""

    checkpoint: Checkpoint
    layers: dict[str, dict[int, Piece]]

    @property
    def mark(self) -> Mark:
        return self.checkpoint.mark

    def inherit(self, gone: _Merged) -> None:
        """Take over what the one before holds and this one does not."""
        if self.mark.full:
            return
        for name, pieces in gone.layers.items():
            self.layers[name] = pieces | self.layers.get(name, {})
        mark = replace(self.mark, full=gone.mark.full)
        self.checkpoint = replace(self.checkpoint, mark=mark)

    def size(self) -> int:
        """About how many bytes it takes in the file."""
        pieces = (piece for layer in self.layers.values() for piece in layer.values())
        content = sum(_stored(*piece) + OVERHEAD if piece else OVERHEAD for piece in pieces)
        return content + sum(place.length for _, place, _ in self.checkpoint.sections)


def thinned(before: CheckpointWriter, size_max: int, count_max: int) -> CheckpointWriter:
    """A writer that goes on with a file well below that size, if it can be done, in its place. LogError.

    `before` is to be closed then.
    """
    old = before.reader()
    try:
        kept = list(_thinned(old, size_max, count_max))
        writer = CheckpointWriter(before.path, old.header)
        try:
            for merged in kept:
                _write(old, writer, merged)
            writer.appear()
        except BaseException:
            writer.discard()
            raise
    finally:
        old.close()
    return writer


def _thinned(file: CheckpointFile, size_max: int, count_max: int) -> list[_Merged]:
    kept = [_Merged(each, {name: _pieces(layer) for name, layer in each.layers.items()}) for each in file.checkpoints]
    sizes = [merged.size() for merged in kept]
    size_max = max(size_max // 2, _target(kept, size_max))
    while len(kept) > 1 and (sum(sizes) > size_max or len(kept) > count_max):
        gone = cheapest([0, *(merged.mark.clock for merged in kept)]) - 1
        heir = kept[gone + 1]
        heir.inherit(kept[gone])
        sizes[gone + 1] = heir.size()
        del kept[gone], sizes[gone]
    return kept


def _target(kept: list[_Merged], size_max: int) -> int:
    """What is common to all of them (and cannot go), and a third of the room beside it."""
    everything = _Merged(kept[0].checkpoint, dict(kept[0].layers))
    for merged in kept[1:]:
        for name, pieces in merged.layers.items():
            everything.layers[name] = everything.layers.get(name, {}) | pieces
    least = everything.size()
    return least + (size_max - least) // 3


def _pieces(layer: Layer) -> dict[int, Piece]:
    found: dict[int, Piece] = {number: (layer, at) for at, number in enumerate(layer.numbers) if number != NONE}
    return found | dict.fromkeys(layer.zeros)


def _stored(layer: Layer, at: int) -> int:
    return layer.groups[at // layer.per].length // layer.per


def _write(old: CheckpointFile, writer: CheckpointWriter, merged: _Merged) -> None:
    writer.begin()
    for name, content in old.sections(merged.checkpoint):
        writer.section(name, content)
    for name, pieces in merged.layers.items():
        shapes = {(piece[0].size, piece[0].per) for piece in pieces.values() if piece}
        shape = shapes.pop() if shapes else (_shape(merged, name))
        loose: list[tuple[int, bytes]] = []
        for group, numbers in _by_group(pieces):
            if 2 * sum(number != NONE for number in numbers) >= shape[1] == len(numbers):
                writer.group(name, *shape, numbers, old.stored(group))
            else:
                content = old.blob(group, shape[0] * shape[1])
                starts = ((number, at * shape[0]) for at, number in enumerate(numbers) if number != NONE)
                loose += [(number, content[start : start + shape[0]]) for number, start in starts]
        _write_loose(writer, name, shape, loose)
        writer.zeros(name, *shape, sorted(number for number, piece in pieces.items() if piece is None))
    writer.commit(merged.mark)


def _shape(merged: _Merged, name: str) -> tuple[int, int]:
    layer = merged.checkpoint.layers.get(name)
    return (layer.size, layer.per) if layer is not None else (1, 1)


def _by_group(pieces: dict[int, Piece]) -> Iterator[tuple[Blob, list[int]]]:
    """The old groups that hold any of these, with the numbers of what is wanted of each."""
    groups: dict[tuple[int, int], tuple[Layer, list[int]]] = {}
    for number, piece in pieces.items():
        if piece is None:
            continue
        layer, at = piece
        which = at // layer.per
        if (id(layer), which) not in groups:
            width = min(layer.per, len(layer.numbers) - which * layer.per)
            groups[id(layer), which] = (layer, [NONE] * width)
        groups[id(layer), which][1][at % layer.per] = number
    for (_, which), (layer, numbers) in groups.items():
        yield layer.groups[which], numbers


def _write_loose(writer: CheckpointWriter, name: str, shape: tuple[int, int], loose: list[tuple[int, bytes]]) -> None:
    """The whole-sized ones first: only the last piece of a layer may be short."""
    loose.sort(key=lambda piece: (-len(piece[1]), piece[0]))
    for start in range(0, len(loose), shape[1]):
        part = loose[start : start + shape[1]]
        writer.pieces(name, *shape, [number for number, _ in part], b"".join(content for _, content in part))
