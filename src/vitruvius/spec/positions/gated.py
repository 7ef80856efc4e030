"""Positions that the content lets in: added to the embedding through a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import (
    LearnedTable,
    NonNegativeFloat,
    Position,
    PositiveFloat,
    PositiveInt,
    Scope,
    TensorSpec,
    Twin,
    register,
)
from vitruvius.spec.positions.tables import LearnedPosition, SinusoidalPosition
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.tape_ops import unary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedAdditivePosition(Position):
    """x + sigmoid(W x + b) * P(t): each token decides, channel by channel, how much of its position it takes on.

    In full, x + strength * sigmoid((W x + b) / temperature) * P(t).
    """

    acts_on = "embedding"
    schedulable = marks(
        strength=Schedulable(bears_on="cost", why="positions that come in late, or leave before the end"),
        temperature=Schedulable(why="gates that start open halfway and end as decisions"),
    )

    kind: Literal["gated-additive"] = "gated-additive"
    table: Literal["sinusoidal", "learned"] = "sinusoidal"
    """What P is: fixed sines and cosines, or a trained vector per position."""
    base: PositiveFloat | None = None
    """Of `sinusoidal`: wavelengths run from 2 pi to 2 pi x base; 10,000 when not given."""
    size: PositiveInt | None = None
    """Of `learned`: last position it may ever hold, plus one; the context when not given."""
    start: PositiveInt | None = None
    """Of `learned`: rows at first; the table grows on demand up to `size`. All of `size` when not given."""
    strength: NonNegativeFloat = 1.0
    """What the gated positions are multiplied by."""
    temperature: PositiveFloat = 1.0
    """What the gate's logits are divided by: below one, gates are nearer to open or shut."""

    @property
    def added(self) -> LearnedPosition | SinusoidalPosition:
        """P as a position of its own."""
        if self.table == "learned":
            return LearnedPosition(size=self.size, start=self.start)
        return SinusoidalPosition() if self.base is None else SinusoidalPosition(base=self.base)

    def learned_table(self, scope: Scope) -> LearnedTable | None:
        """The table that grows, where P is learned."""
        inner = self.added.learned_table(scope)
        return None if inner is None else inner.inside("table")

    def longest_sequence(self, scope: Scope) -> int | None:
        """Longest sequence that P has vectors for."""
        return self.added.longest_sequence(scope)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The gate's map and bias, then the table where it is learned."""
        return {
            "gate.weight": TensorSpec(shape=(scope.width, scope.width)),
            "gate.bias": TensorSpec(shape=(scope.width,), role="bias"),
            **{f"table.{name}": tensor for name, tensor in self.added.tensors(scope).items()},
        }

    def trace_embedded(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """The gate, and its product with rows of the table: of sines they are made anew, of a table gathered."""
        (batch, length, width), learned = x.shape, self.table == "learned"
        with tape.call():
            gate = unary("sigmoid", tape.linear(x, [width], biases=width)[0], "output")
            tape.hold(gate)
            rows, product = tape.fresh((length, width), gradient=False), tape.like(gate)
            ids = [tape.constant(f"{tape.place}positions", 8 * length)] if learned else []
            making = 0 if learned else 4 * 8 * length * width
            tape.op("rows", reads=ids, makes=[rows], saves=ids, forward=making, gives=[])
            table = self.added.tensors(scope).get("weight")
            tape.op(
                "product",
                reads=[gate, rows],
                makes=[product],
                saves=[gate, rows] if learned else [rows],
                gives=[(gate, gate.size)],
                weights=0 if table is None else table.count * x.item,
                backward=product.size if learned and batch > 1 else 0,
            )
            return tape.add(x, product)

    def details(self, scope: Scope) -> tuple[str]:
        """What is gated, and the numbers that are not one."""
        del scope
        numbers = {"strength": self.strength, "temperature": self.temperature}
        told = (f", {name} {number:g}" for name, number in numbers.items() if number != 1.0)
        return (f"gated {self.table}{''.join(told)}",)

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """Everything, where nothing of the positions is added."""
        del length
        if self.strength == 0:
            yield from self.tensors(scope)

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """A table as long as the twin's context."""
        return dict(self.added.shrunk(twin))

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Fields of the other table, and tables that cannot hold the context."""
        foreign = ("base",) if self.table == "learned" else ("size", "start")
        for name in foreign:
            if getattr(self, name) is not None:
                other = "sinusoidal" if self.table == "learned" else "learned"
                what = f"{name} belongs to table: {other}, and this table is {self.table}"
                yield Finding(path=name, what=what, fix=f"write table: {other}, or leave {name} out")
        yield from self.added.findings(scope)
