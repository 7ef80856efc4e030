"""Known results that a correct library gives again: what is trained, on what, and what came out elsewhere.

The targets were measured for this project with another implementation of the same tasks, on two CPU cores, and agree in
kind with what the papers publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A distribution of sequences."""

    task: str
    """Name in `vitruvius.lab.tasks.TASKS`."""
    settings: Mapping[str, Any]
    """What the task is given besides a number of sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number taken of a trained model."""

    name: str
    of: Drawn
    sequences: int
    """Test sequences, the same for every model."""
    kind: Literal["error %", "accuracy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One architecture, and what it came to elsewhere."""

    name: str
    label: str
    """The name that a reader knows it by."""
    mixer: str
    """The mixer of its blocks, as a spec writes it."""
    steps: int
    """Updates until it is measured."""
    targets: tuple[float, ...]
    """One for each measure of the reproduction."""
    layers: int = 1


Means = Mapping[str, tuple[float, ...]]
"""Arm -> its mean for each measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the result says in words, and whether means bear it out."""

    text: str
    holds: Callable[[Means], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A known result."""

    name: str
    title: str
    source: str
    spec: str
    """The architecture, with places for the name, the mixer and the layers."""
    train_on: Drawn
    batch: int
    train: Mapping[str, Any]
    """Fields of the training config."""
    measures: tuple[Measure, ...]
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = field(default=())

    def spec_of(self, arm: Arm) -> str:
        """The spec of an arm, as a file would hold it."""
        return self.spec.format(name=f"{self.name}-{arm.name}", mixer=arm.mixer, layers=arm.layers)


def _flip_flop() -> Reproduction:
    def drawn(ignore: float) -> Drawn:
        return Drawn(task="flip-flop", settings={"length": 64, "ignore": ignore})

    def attention(position: str) -> str:
        return f"{{kind: attention, heads: 2, position: {position}}}"

    return Reproduction(
        name="flip-flop",
        title="Remembering one bit: the flip-flop language, one layer of two heads",
        source="Liu et al., Exposing Attention Glitches with Flip-Flop Language Modeling, 2023; "
        "Yang et al., PaTH Attention, 2025",
        spec="""name: {name}
vocab_size: 5
width: 64
context: 64
blocks:
  layer:
    mixer: {mixer}
    ffn: {{kind: mlp, hidden: 256}}
layers: layer*{layers}
""",
        train_on=drawn(0.8),
        batch=64,
        train={"lr": 3e-3, "schedule": "constant", "warmup": 0, "dtype": "fp32"},
        measures=(
            Measure(name="in distribution", of=drawn(0.8), sequences=2000, kind="error %"),
            Measure(name="sparse", of=drawn(0.98), sequences=2000, kind="error %"),
            Measure(name="dense", of=drawn(0.1), sequences=500, kind="error %"),
        ),
        arms=(
            Arm(name="path", label="PaTH", mixer=attention("path"), steps=500, targets=(0.0, 0.0, 0.0)),
            Arm(name="rope", label="RoPE", mixer=attention("rope"), steps=500, targets=(25.0, 43.0, 4.0)),
            Arm(name="fox", label="FoX", mixer=attention("fox"), steps=500, targets=(21.0, 38.0, 1.0)),
            Arm(name="cope", label="CoPE", mixer=attention("cope"), steps=1000, targets=(18.0, 42.0, 0.7)),
        ),
        claims=(
            Claim(text="PaTH errs on no more than 1 % of the reads of any kind", holds=lambda m: max(m["path"]) <= 1.0),
            Claim(
                text="RoPE, FoX and CoPE err on at least 10 % in distribution and 25 % when writes are sparse",
                holds=lambda m: all(m[a][0] >= 10.0 and m[a][1] >= 25.0 for a in ("rope", "fox", "cope")),
            ),
        ),
    )


_PARITY_SPEC: Final = """name: {name}
vocab_size: 2
width: 64
context: 128
blocks:
  layer:
    mixer: {mixer}
    ffn: {{kind: mlp, hidden: 256}}
layers: layer*{layers}
"""


def _parity() -> Reproduction:
    def drawn(length: int) -> Drawn:
        return Drawn(task="parity", settings={"length": length})

    delta = "{{kind: gated-deltanet, heads: 2, eigenvalues: {}}}"
    return Reproduction(
        name="parity",
        title="Counting modulo two: one layer of Gated DeltaNet",
        source="Grazzi et al., Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, 2025; "
        "Yang et al., Gated Delta Networks, 2025",
        spec=_PARITY_SPEC,
        train_on=drawn(32),
        batch=64,
        train={"lr": 3e-3, "schedule": "constant", "warmup": 0, "dtype": "fp32"},
        measures=(
            Measure(name="T=32", of=drawn(32), sequences=2000, kind="accuracy"),
            Measure(name="T=128", of=drawn(128), sequences=500, kind="accuracy"),
        ),
        arms=(
            Arm(
                name="positive",
                label="Gated DeltaNet, beta in (0, 1)",
                mixer=delta.format("positive"),
                steps=400,
                targets=(0.688, 0.543),
            ),
            Arm(
                name="both",
                label="Gated DeltaNet, beta in (0, 2)",
                mixer=delta.format("both"),
                steps=400,
                targets=(0.9999, 0.984),
            ),
            Arm(
                name="rope",
                label="RoPE, two layers",
                mixer="{kind: attention, heads: 2, position: rope}",
                steps=400,
                targets=(0.645, 0.532),
                layers=2,
            ),
        ),
        claims=(
            Claim(
                text="eigenvalues of both signs count modulo two, at four times the trained length too",
                holds=lambda m: min(m["both"]) >= 0.95,
            ),
            Claim(
                text="positive ones and two layers of attention do not, even at the trained length",
                holds=lambda m: max(*m["positive"], *m["rope"]) <= 0.8,
            ),
        ),
    )


REPRODUCTIONS: Final[dict[str, Reproduction]] = {made.name: made for made in (_flip_flop(), _parity())}
"""The known results, by name."""
