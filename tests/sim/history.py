# SPDX-License-Identifier: GPL-2.0-or-later
"""All histories that any replica ever ran, as a tree, and the one branch that the outside has seen.

    root -- 1 -- 2 -- 3 -- 4            a node is one entry after all the entries before it
                       `-- 4' -- 5'     the branch that was run after a failover

Every replica's machine stands at a node. What leaves the pair must come from nodes of one branch: the *spine*. A side
that goes live must stand on or beyond the spine's tip, else something that has left is lost; from then on only that
side may let the spine grow, others may at most repeat what is on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from devices.event import Output, OutputKind
from replay.entry import Entry, EpochResult, encode_entry


class Violation(AssertionError):
    """The pair broke one of its promises."""


@dataclass(slots=True, eq=False)
class Node:
    """One entry with everything before it; what it gives is noted by the first replica that runs it."""

    number: int
    parent: Node | None
    sequence: int
    entry: Entry | None = None
    outputs: list[Output] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)  # for each output: disk changes before the last flush before it
    result: tuple[int, int, int, int, int] | None = None
    final: bool = False

    def before(self, sequence: int) -> Node:
        """The ancestor (or self) with this sequence."""
        node = self
        while node.sequence > sequence:
            assert node.parent is not None
            node = node.parent
        return node


class History:
    """The tree. Replicas that run the same entry from the same node must get the same."""

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node(0, None, 0)]
        self._children: dict[tuple[int, bytes], Node] = {}

    @property
    def root(self) -> Node:
        """Power-on."""
        return self.nodes[0]

    def boot(self) -> Node:
        """A new power-on, after a cold start: nothing before it counts."""
        node = Node(len(self.nodes), None, 0)
        self.nodes.append(node)
        return node

    def child(self, parent: Node, entry: Entry) -> Node:
        """The node of `entry` after `parent`."""
        key = (parent.number, encode_entry(entry))
        node = self._children.get(key)
        if node is None:
            if entry.sequence != parent.sequence + 1:
                raise Violation(f"entry {entry.sequence} is run after entry {parent.sequence}")
            node = self._children[key] = Node(len(self.nodes), parent, entry.sequence, entry)
            self.nodes.append(node)
        return node


def note_output(node: Node, index: int, output: Output, changes: int) -> None:
    """A replica that is not corrupt made this output."""
    if index == len(node.outputs) and node.result is None:
        node.outputs.append(output)
        node.changes.append(changes)
    elif index > len(node.outputs) or node.outputs[index] != output or node.changes[index] != changes:
        raise Violation(f"output {node.sequence}.{index} differs between replicas: {output}")


def note_result(node: Node, result: EpochResult, final: bool) -> None:
    """A replica that is not corrupt has run the entry."""
    got = (result.reason, result.clock, result.time, result.digest, len(result.outputs))
    if node.result is None:
        node.result, node.final = got, final
    elif node.result != got:
        raise Violation(f"entry {node.sequence} gave {node.result} on one replica, {got} on the other")


class Spine:
    """The branch that the outside has seen."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.tip = root
        self.owner = ""  # the process that took over last
        self.term = 0
        self.finished: Node | None = None  # the final entry of a member that ended in order
        self._nodes: dict[int, Node] = {0: root}
        self.left: dict[tuple[int, int], Output] = {}
        self._streams: dict[tuple[int, int], int] = {}  # stream -> end of what has left
        self.repeats = 0

    def holds(self, node: Node) -> bool:
        """Whether the node is on the spine."""
        return self._nodes.get(node.sequence) is node

    def _grow(self, node: Node) -> None:
        fresh: list[Node] = []
        walk: Node | None = node
        while walk is not None and not self.holds(walk):
            fresh.append(walk)
            walk = walk.parent
        if walk is not self.tip:
            at = "another boot" if walk is None else f"entry {walk.sequence}"
            raise Violation(f"entry {node.sequence} branches off at {at}; what has left reaches {self.tip.sequence}")
        for each in reversed(fresh):
            self._nodes[each.sequence] = each
        self.tip = node

    def took_over(self, owner: str, term: int, node: Node) -> None:
        """A member begins to be live in `term`, standing at `node`."""
        if term <= self.term:
            raise Violation(f"{owner} is live in term {term}, but term {self.term} was taken over before")
        if self.finished is not None and node is not self.finished:
            raise Violation(f"{owner} goes live in term {term} after the guest has ended in order")
        if not self.holds(node):
            self._grow(node)
        elif node is not self.tip:
            raise Violation(
                f"{owner} goes live at entry {node.sequence}: entries up to {self.tip.sequence}, whose outputs "
                "have left, are lost"
            )
        self.owner, self.term = owner, term

    def released(self, owner: str, node: Node, index: int, output: Output) -> bool:
        """An output has left; returns whether it is new."""
        if index >= len(node.outputs) or node.outputs[index] != output:
            raise Violation(f"{owner} releases {node.sequence}.{index}, which is not what that entry gave: {output}")
        if not self.holds(node):
            if owner != self.owner:
                raise Violation(
                    f"{owner} releases output {node.sequence}.{index} of its own branch, but {self.owner} "
                    f"is live in term {self.term}"
                )
            self._grow(node)
        self._stream(output)
        if (node.sequence, index) in self.left:
            self.repeats += 1
            return False
        self.left[node.sequence, index] = output
        return True

    def _stream(self, output: Output) -> None:
        if output.kind != OutputKind.CONSOLE:
            return
        key = (output.kind, output.unit)
        end = self._streams.get(key, 0)
        if output.offset > end:
            raise Violation(f"the console stream has a gap: {end} bytes have left, now come those from {output.offset}")
        self._streams[key] = max(end, output.offset + len(output.data))

    def ended(self, node: Node) -> None:
        """A member says that the guest has ended in order, standing at `node`."""
        if not node.final:
            raise Violation(f"a member says that the guest has ended, but entry {node.sequence} is not its last")
        if self.finished is not None and self.finished is not node:
            raise Violation("two members saw the guest end at different entries")
        if not self.holds(node):
            self._grow(node)
        elif node is not self.tip:
            raise Violation("the guest has ended before what has left")
        self.finished = node

    def path(self) -> list[Node]:
        """All entries that count, in order."""
        return [self._nodes[sequence] for sequence in range(1, self.tip.sequence + 1)]

    def console_due(self) -> int:
        """Bytes of console that the spine's entries have made."""
        end = 0
        for node in self._nodes.values():
            for output in node.outputs:
                if output.kind == OutputKind.CONSOLE:
                    end = max(end, output.offset + len(output.data))
        return end

    def console_left(self) -> int:
        """Bytes of console that have left."""
        return self._streams.get((OutputKind.CONSOLE, 0), 0)
