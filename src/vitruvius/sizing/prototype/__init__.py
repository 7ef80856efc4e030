"""Prototypes: a spec scaled down to a number of parameters, with the ratios that matter and a run that trains it.

Not `spec.shrink`, which makes the smallest twin on which tests still say something: a prototype is there to be trained,
and to be wrong about as little as possible at full size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.sizing.parameters import Parameters, count_parameters
from vitruvius.sizing.prototype.blind_spots import BlindSpot, blind_spots
from vitruvius.sizing.prototype.deviations import Deviation, deviations
from vitruvius.sizing.prototype.run import PrototypeRun, run_of
from vitruvius.sizing.prototype.search import find
from vitruvius.spec.graph import resolve
from vitruvius.spec.rules import ensure
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture

__all__ = ["BlindSpot", "Deviation", "Prototype", "PrototypeRun", "prototype_name", "scale_down"]

SCHEMA = "vitruvius.scale-down/1"
DEFAULT_CONTEXT = 2048
"""Tokens of a prototype of a longer spec, where no other number is asked for."""
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Prototype:
    """A small version of an architecture that is to be trained, and everything that sets it apart."""

    architecture: Architecture
    original: Architecture
    wanted: int
    """Parameters that were asked for."""
    parameters: Parameters
    run: PrototypeRun
    deviations: tuple[Deviation, ...]
    blind_spots: tuple[BlindSpot, ...]

    @property
    def missed_by(self) -> float:
        """Share by which the parameters are off what was asked for; below 0 where they are fewer."""
        return self.parameters.total / self.wanted - 1

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.scale-down/1`, without the files."""
        run = {name: getattr(self.run, name) for name in PrototypeRun.__slots__ if name != "rules"}
        return {
            "schema": SCHEMA,
            "name": self.architecture.name,
            "of": self.original.name,
            "parameters": {
                "wanted": self.wanted,
                "total": self.parameters.total,
                "active": self.parameters.active,
                "missed_by": self.missed_by,
            },
            "context": self.architecture.context,
            "layers": len(resolve(self.architecture).layers),
            "width": self.architecture.width,
            "vocab_size": self.architecture.vocab_size,
            "run": {**run, "rules": list(self.run.rules)},
            "deviations": [{name: getattr(row, name) for name in Deviation.__slots__} for row in self.deviations],
            "blind_spots": [{"what": spot.what, "because": spot.because} for spot in self.blind_spots],
        }


def scale_down(
    architecture: Architecture, parameters: int, *, context: int | None = None, vocab: int | None = None
) -> Prototype:
    """The prototype of about `parameters` that keeps most of the ratios of an architecture.

    Kept as nearly as whole numbers allow: depth to width, query heads to key heads, inner width to width, windows and
    wavelengths to the context, experts and chosen experts, the period and order of the layers, muP's base width.
    context: tokens, 2,048 or the architecture's own where that is less when not given. vocab: words; the
    architecture's own, or as many as leave three quarters of the parameters to the layers, when not given.
    Raises SpecError when the architecture does not fit together, UsageError for numbers out of range and where no
    prototype is that small.
    """
    before = ensure(architecture)
    architecture = before.architecture
    total = count_parameters(before).total
    tokens = min(architecture.context, DEFAULT_CONTEXT) if context is None else context
    _check(architecture, parameters, total, tokens, vocab)
    found = find(architecture, parameters, context=tokens, vocab=vocab)
    made = replace(
        found.architecture,
        name=prototype_name(architecture.name, parameters),
        description=f"A prototype of {architecture.name} with {format_count(found.parameters)} parameters.",
    )
    after = ensure(made)
    run = run_of(after)
    return Prototype(
        architecture=made,
        original=architecture,
        wanted=parameters,
        parameters=count_parameters(after),
        run=run,
        deviations=deviations(before, after),
        blind_spots=blind_spots(before, after, run),
    )


def _check(architecture: Architecture, parameters: int, total: int, context: int, vocab: int | None) -> None:
    if not 1 <= parameters < total:
        what = f"{architecture.name} has {total:,} parameters, and a prototype of {parameters:,} is asked for"
        raise UsageError(what, fix=f"ask for 1 or more, and fewer than {format_count(total)}")
    if not 1 <= context <= architecture.context:
        what = f"a prototype for {context:,} tokens, and {architecture.name} is made for {architecture.context:,}"
        raise UsageError(what, fix=f"use a context of at most {architecture.context:,}")
    if vocab is not None and not 1 <= vocab <= architecture.vocab_size:
        what = f"a vocabulary of {vocab:,}, and {architecture.name} has {architecture.vocab_size:,}"
        raise UsageError(what, fix=f"use at most {architecture.vocab_size:,}")


def prototype_name(name: str, parameters: int) -> str:
    """What the prototype of an architecture is called: `longcontext-15m`."""
    size = re.sub(r"[^0-9a-z.]", "", format_count(parameters).lower())
    size = re.sub(r"(\.\d*?)0+(?=[a-z]|$)", r"\1", size).replace(".k", "k").replace(".m", "m").replace(".b", "b")
    return f"{name[:_LONGEST_NAME]}-{size}"
