"""The moments of a training step: what activations and gradients take as its stretches are done and undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.sizing.parts import Part
from vitruvius.spec.recomputing import is_again
from vitruvius.spec.tracing.tape import AT_MOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.spec.recomputing import Checkpointing
    from vitruvius.spec.tracing.activity import Stretch

RANDOM_STATE = 5056
"""Bytes of torch's CPU generator, which a layer that is computed again starts from."""


_TABLE = "token table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one stretch keeps, in bytes, with the operation that keeps it."""

    name: str
    own: tuple[tuple[str, int], ...]
    """Of what it made."""
    outside: tuple[tuple[str, int], ...]
    """Of what was there before and nobody kept yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment of a step, in bytes."""

    name: str
    """`forward of layer 3`, `loss`, `backward of layer 3`."""
    own_until: int
    """What the first so many stretches made is kept."""
    outside_until: int
    """What the first so many stretches keep of what was there before is."""
    saved: int
    """Kept between forward and backward pass; of the part that is being undone, what it made is transient."""
    transient: int
    """What else exists at its highest point, gradients of activations included."""
    gradients: int
    """Of the weights of other parts, which are all there; those of its own part are transient until it ends."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.saved + self.transient + self.gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """A micro-batch."""

    saved: int
    """Kept at the end of the forward pass, constants included."""
    constants: tuple[tuple[str, int], ...]
    """Tables, masks and ids, which stay from step to step; part of `saved`, and of every moment."""
    pieces: tuple[Piece, ...]
    gradients: int
    """Of all weights, at the end."""
    moments: tuple[Moment, ...]
    unsure: int

    @property
    def shared(self) -> int:
        """Bytes of the constants."""
        return sum(size for _, size in self.constants)

    def parts_of(self, moment: Moment) -> tuple[Part, ...]:
        """What is kept at a moment, by stretch and operation; equal stretches stand together."""
        found: dict[tuple[tuple[str, int], ...], list[str]] = {}
        for index, piece in enumerate(self.pieces):
            kept = piece.own if index < moment.own_until else ()
            kept += piece.outside if index < moment.outside_until else ()
            if kept:
                found.setdefault(kept, []).append(piece.name)
        parts = [_part(names, kept) for kept, names in found.items()]
        if self.constants:
            inside = tuple(Part(name=name, size=size) for name, size in self.constants)
            parts.append(Part(name="shared by layers", size=self.shared, formula="counted once", parts=inside))
        return tuple(parts)


def _part(names: list[str], kept: tuple[tuple[str, int], ...]) -> Part:
    each = sum(size for _, size in kept)
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it"
    formula = "" if len(names) == 1 else f"{len(names)} x {each:,} bytes"
    inside = tuple(
        Part(name=name, size=len(names) * size, formula=formula and f"{len(names)} x {size:,}") for name, size in kept
    )
    return Part(name=shown, size=len(names) * each, formula=formula, parts=inside)


def levels_of(stretches: Sequence[Stretch], *, checkpointing: Checkpointing = "none") -> Levels:
    """Walk through a micro-batch and back."""
    walk = _Walk(stretches, checkpointing)
    moments = [*walk.forwards()]
    saved = walk.kept + walk.shared
    moments += walk.backwards()
    return Levels(
        saved=saved,
        constants=tuple((name.removeprefix("constant:"), size) for name, size in walk.constants.items()),
        pieces=tuple(walk.pieces),
        gradients=walk.gradients,
        moments=tuple(moments),
        unsure=sum(stretch.unsure for stretch in stretches) + walk.bounded,
    )


class _Walk:
    """What is there at each moment, by name of what passes between stretches."""

    def __init__(self, stretches: Sequence[Stretch], checkpointing: Checkpointing) -> None:
        self.stretches = stretches
        self.again = [stretch.index is not None and is_again(checkpointing, stretch.index) for stretch in stretches]
        self.constants: dict[str, int] = {}
        for stretch in stretches:
            self.constants |= stretch.replay.constants
        self.shared = sum(self.constants.values())
        bounded = f"constant:{AT_MOST}"
        self.bounded = sum(size for name, size in self.constants.items() if name.startswith(bounded))
        self.kept = 0
        """Bytes kept so far, or still."""
        self.pieces: list[Piece] = []
        self.first: dict[str, int] = {}
        """What is kept of what passes between stretches, by its name in the step: the first stretch that keeps it."""
        self.last: dict[str, int] = {}
        """The last stretch that reads it."""
        for index, stretch in enumerate(stretches):
            for name in (*stretch.replay.reads, *stretch.replay.keeps):
                self.last[stretch.reads[name]] = index
        self.gradients = 0

    def _keeps(self, index: int) -> dict[str, int]:
        """What a stretch keeps of what was there before; a layer that is computed again keeps all it reads."""
        stretch = self.stretches[index]
        kept = stretch.replay.reads if self.again[index] else stretch.replay.keeps
        return {stretch.reads[name]: size for name, size in kept.items()}

    def forwards(self) -> Iterator[Moment]:
        """The stretches in order."""
        passing: dict[str, int] = {}
        inside: set[str] = set()
        for index, stretch in enumerate(self.stretches):
            replay, again = stretch.replay, self.again[index]
            waiting = sum(size for name, size in passing.items() if name not in self.first)
            yield Moment(
                name="loss" if stretch.name == "loss" else f"forward of {stretch.name}",
                own_until=index,
                outside_until=index,
                saved=self.kept + self.shared,
                transient=waiting + (replay.alone if again else replay.forward),
                gradients=0,
            )
            self._keep(index, inside)
            for name, size in replay.leaves.items():
                there = stretch.leaves[name]
                if size == 0 and not again:
                    inside.add(there)
                passing[there] = replay.sizes[name] if again else size
            passing = {name: size for name, size in passing.items() if self._waits(name, index)}

    def _keep(self, index: int, inside: set[str]) -> None:
        """Take note of what a stretch keeps; what its maker keeps anyway is not counted twice."""
        stretch = self.stretches[index]
        outside: list[tuple[str, int]] = []
        for name, size in self._keeps(index).items():
            if name not in self.first:
                self.first[name] = index
                if name not in inside:
                    outside.append((name, size))
        own = (("random state", RANDOM_STATE),) if self.again[index] else stretch.replay.own
        self.pieces.append(Piece(name=stretch.name, own=own, outside=tuple(outside)))
        self.kept += sum(size for _, size in (*own, *outside))

    def _waits(self, name: str, index: int) -> bool:
        """Whether something that passes between stretches is still there: loans are until the end of the pass."""
        return name in self.last and (self.last[name] > index or " of " in name)

    def backwards(self) -> Iterator[Moment]:
        """The stretches from the last to the first."""
        pending: dict[str, int] = {}
        made: set[str] = set()
        for index in range(len(self.stretches) - 1, -1, -1):
            stretch, replay, piece = self.stretches[index], self.stretches[index].replay, self.pieces[index]
            for name in stretch.leaves.values():
                pending.pop(name, None)
            self.kept -= sum(size for _, size in piece.own)
            yield Moment(
                name=f"backward of {stretch.name}",
                own_until=index,
                outside_until=index + 1,
                saved=self.kept + self.shared,
                transient=sum(pending.values()) + self._high(index),
                gradients=self.gradients,
            )
            pending |= {stretch.reads[name]: size for name, size in replay.gives.items() if name != "stream"}
            if stretch.weights not in made:
                made.add(stretch.weights)
                self.gradients += replay.weights
                # The table that embedding and head share has one gradient.
                self.gradients -= stretch.tied if _TABLE in made else 0
                made |= {_TABLE} if stretch.tied else set()
            self.kept -= sum(size for _, size in piece.outside)

    def _high(self, index: int) -> int:
        replay = self.stretches[index].replay
        if not self.again[index]:
            return replay.backward
        # The gradient that came in waits while the layer is computed again; then all it saved is there.
        return max(replay.forward + sum(replay.sizes.values()), replay.backward)
