"""The levels of memory of a tape: forwards through its operations, then back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.spec.costs import Activations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.spec.tracing.tape import Op, Storage, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a tape comes to, in bytes; what was there before it counts in `keeps` and `constants` alone."""

    saved: int
    """Kept from the forward to the backward pass, of what the tape made."""
    reads: Mapping[str, int]
    """What it reads of what was there before, by key."""
    keeps: Mapping[str, int]
    """What it keeps of that."""
    constants: Mapping[str, int]
    """What it uses or leaves that layers share, by key."""
    forward: int
    """The highest level of the forward pass, what it saves included."""
    forward_at: str
    """The operation of that moment."""
    leaves: Mapping[str, int]
    """What outlives it and is not saved, by name: bytes of `output`, and of what it lends."""
    sizes: Mapping[str, int]
    """Bytes of its output and of what it lends, saved or not."""
    alone: int
    """The highest level of a forward pass that saves nothing."""
    backward: int
    """The highest level of the backward pass: what is still saved, and gradients, those of its weights as they come."""
    backward_at: str
    """The operation of that moment."""
    weights: int
    """Bytes of the gradients of its parameters."""
    gives: Mapping[str, int]
    """Gradients that are left at the end for what was there before, by key."""
    own: tuple[tuple[str, int], ...]
    """(operation that keeps it, bytes) of each storage saved that it made."""
    kept: tuple[tuple[str, int], ...]
    """The same with those that were there before."""
    kept_keys: frozenset[str]
    """Keys of those."""

    def as_activations(self, unsure: int = 0) -> Activations:
        """As the account of one component, which counts what it keeps of its input and of what layers share."""
        return Activations(
            saved=sum(size for _, size in self.kept),
            forward=max(0, self.forward - self.saved),
            backward=max(0, self.backward - self.saved - self.weights),
            unsure=unsure,
        )


class _Gradient:
    """Memory of a gradient that may wait in several places."""

    __slots__ = ("places", "size")

    def __init__(self, size: int) -> None:
        self.size, self.places = size, 0


def replay(
    ops: Sequence[Op], until: Mapping[Storage, int], outputs: Mapping[str, Value], known: Mapping[str, Value]
) -> Replay:
    """Go through the operations.

    until: how long names hold storages. outputs: whose gradients come in, by name. known: what was there before.
    """
    kept = _kept(ops)
    end = {value.storage for value in outputs.values()}
    forward, forward_at = _forwards(ops, until, kept, end)
    backward, backward_at, left = _backwards(ops, kept, outputs)
    inside = {storage: name for storage, name in kept.items() if storage.key is None}
    constants = {key: value.storage.size for key, value in known.items() if key.startswith("constant:")}
    used = {storage for op in ops for storage in (*op.reads, *op.saves) if storage.key is not None}
    reads = {s.key: s.size for s in used if s.key is not None and s.key not in constants}
    keys = {value.slot: key for key, value in known.items()}
    return Replay(
        saved=sum(storage.size for storage in inside),
        reads=reads,
        keeps={s.key: s.size for s in kept if s.key in reads},
        constants=constants,
        forward=forward,
        forward_at=forward_at,
        leaves={name: 0 if value.storage in kept else value.storage.size for name, value in outputs.items()},
        sizes={name: value.storage.size for name, value in outputs.items()},
        alone=_forwards(ops, until, {}, end)[0],
        backward=backward,
        backward_at=backward_at,
        weights=sum(op.weights for op in ops),
        gives={keys[slot]: gradient.size for slot, gradient in left.items() if slot in keys},
        own=tuple((name, storage.size) for storage, name in inside.items()),
        kept=tuple((name, storage.size) for storage, name in kept.items()),
        kept_keys=frozenset(storage.key for storage in kept if storage.key is not None),
    )


def _kept(ops: Sequence[Op]) -> dict[Storage, str]:
    """What is saved, and by which operation first."""
    kept: dict[Storage, str] = {}
    for op in ops:
        for storage in op.saves:
            kept.setdefault(storage, op.name)
    return kept


def _forwards(
    ops: Sequence[Op], until: Mapping[Storage, int], kept: Mapping[Storage, str], end: set[Storage]
) -> tuple[int, str]:
    last: dict[Storage, int] = {}
    for index, op in enumerate(ops):
        for storage in (*op.makes, *op.reads):
            last[storage] = index
    dying: list[list[Storage]] = [[] for _ in ops]
    for storage, index in last.items():
        if storage.key is None and storage not in kept and storage not in end:
            dying[max(index, until.get(storage, 0) - 1)].append(storage)
    level, highest, at = 0, 0, ""
    born: set[Storage] = set()
    for op, gone in zip(ops, dying, strict=True):
        for storage in op.makes:
            if storage not in born:
                born.add(storage)
                level += storage.size
        if level + op.forward > highest:
            highest, at = level + op.forward, op.name
        level -= sum(storage.size for storage in gone)
    return highest, at


def _backwards(
    ops: Sequence[Op], kept: Mapping[Storage, str], outputs: Mapping[str, Value]
) -> tuple[int, str, dict[int, _Gradient]]:
    holders: dict[Storage, int] = {}
    for op in ops:
        for storage in op.saves:
            holders[storage] = holders.get(storage, 0) + 1
    grads: dict[int, _Gradient] = {}
    level = sum(storage.size for storage in kept if storage.key is None)
    for slot, size in {value.slot: value.size for value in outputs.values() if value.slot >= 0}.items():
        grads[slot] = _Gradient(size)
        grads[slot].places = 1
        level += size
    highest, at = level, ""
    for op in reversed(ops):
        taken = [grads.pop(slot) for slot in op.takes if slot in grads]
        if not taken:
            continue
        made = [_Gradient(give) if isinstance(give, int) else taken[0] for _, give in op.gives]
        new = sum(gradient.size for gradient in made if gradient not in taken)
        inside = new + op.weights + op.backward if op.inside is None else op.inside
        if level + inside > highest:
            highest, at = level + inside, op.name
        level += new + op.weights
        for gradient in made:
            gradient.places += 1
        for gradient in taken:
            gradient.places -= 1
            level -= gradient.size if gradient.places == 0 else 0
        for storage in op.saves:
            holders[storage] -= 1
            if holders[storage] == 0 and storage.key is None:
                level -= storage.size
        for (slot, _), gradient in zip(op.gives, made, strict=True):
            level += _join(grads, slot, gradient)
            highest, at = (level, op.name) if level > highest else (highest, at)
    return highest, at, grads


def _join(grads: dict[int, _Gradient], slot: int, new: _Gradient) -> int:
    """Add a gradient to what waits for a slot; returns by how much the level changes.

    Torch's engine adds in place where nobody else looks at the gradient that waits, or at the new one.
    """
    old = grads.get(slot)
    if old is None:
        grads[slot] = new
        return 0
    if old.places == 1:
        new.places -= 1
        return -new.size if new.places == 0 else 0
    if new.places == 1:
        grads[slot] = new
        old.places -= 1
        return -old.size if old.places == 0 else 0
    old.places -= 1
    new.places -= 1
    grads[slot] = total = _Gradient(old.size)
    total.places = 1
    return total.size - sum(each.size for each in {old, new} if each.places == 0)
