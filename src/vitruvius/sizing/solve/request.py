"""What is asked of `solve`: numbers that a design must meet, and where they are counted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError
from vitruvius.sizing.laws import DEFAULT, ScalingLaw
from vitruvius.sizing.money import ownership, prices_of
from vitruvius.sizing.solve.shapes import LAYOUTS, Style
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device

SHORT = 4096
"""Tokens of the context that decoding at the full one is compared with."""
TRAIN_CONTEXT = 8192
"""Tokens of the sequences of pretraining, where the context is longer: it is extended afterwards."""
TOLERANCE = 0.05
"""How far the parameters may be off what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A request: None is a number that nothing depends on."""

    style: Style = field(default_factory=Style)
    parameters: float | None = None
    """Wanted, within 5 %; what the scaling law makes of the budget when not given."""
    sized_by: Literal["user", "law"] = "user"
    """Who says how many parameters there are; `settled` fills it in."""
    memory_bytes: float | None = None
    """The most that inference (or training) may take, margin for fragmentation included."""
    decode_slowdown: float | None = None
    """The most that a decode step at the full context may take, as a multiple of one at 4,096 tokens."""
    tokens_per_second: float | None = None
    """The least that decoding at the full context must reach on the device, all sequences of the batch together."""
    train_flops: float | None = None
    """The most that training may take."""
    cost: float | None = None
    """The most dollars that training may take on the device, at its efficiency."""
    loss: float | None = None
    """The most that the scaling law may predict."""
    experts: tuple[int, ...] = (1, 8, 64)
    """Numbers of experts to try; 1 is no mixture."""
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    batch: int = 1
    mode: Literal["inference", "train"] = "inference"
    weights: str = "bf16"
    device: Device | None = None
    count: int = 1
    train_context: int | None = None
    law: ScalingLaw = DEFAULT
    activation_bytes: float = 0.0
    """For each token of the batch and channel of the stream: what the search takes activations for. 0 makes its memory
    a lower bound; one bill makes it an estimate. Bills count activations themselves."""

    @property
    def training_tokens_context(self) -> int:
        """Tokens of a training sequence."""
        return self.train_context or min(self.style.context, TRAIN_CONTEXT)

    @property
    def dollars_per_flop(self) -> float | None:
        """What a useful FLOP of training costs on the device; None without a device or a price."""
        if self.device is None:
            return None
        per_hour = dollars_per_hour(self.device)
        rate = self.device.peak("bf16") * self.device.efficiency.compute
        return None if per_hour is None else per_hour / 3600 / rate

    @property
    def flops_budget(self) -> float | None:
        """The training FLOPs that both the budget and the dollars allow; None without either."""
        per_flop = self.dollars_per_flop
        bought = self.cost / per_flop if self.cost is not None and per_flop else inf
        most = min(bought, self.train_flops if self.train_flops is not None else inf)
        return None if most == inf else most

    @property
    def limits(self) -> dict[str, float]:
        """The constraints that were given, by name."""
        names = ("memory_bytes", "decode_slowdown", "tokens_per_second", "train_flops", "cost", "loss")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None and value < inf}


def dollars_per_hour(device: Device) -> float | None:
    """What an hour of a device costs: its rent, or what owning it does where nobody rents it out."""
    each = ownership(device, prices_of(device))
    return each.own_per_hour if each.rent_per_hour is None else each.rent_per_hour


def settled(problem: Problem) -> Problem:
    """The problem with its numbers checked and the parameters filled in.

    Raises UsageError for numbers out of range, for constraints that need a device, and where nothing says how large the
    model is to be.
    """
    _check(problem)
    if problem.memory_bytes is None and problem.device is not None:
        problem = replace(problem, memory_bytes=float(problem.device.usable_bytes * problem.count))
    if problem.parameters is not None:
        return problem
    if problem.flops_budget is not None:
        return replace(problem, parameters=problem.law.split(problem.flops_budget)[0], sized_by="law")
    if problem.loss is not None:
        needed = problem.law.least_flops_for_loss(problem.loss)
        if needed == inf:
            what = f"no model reaches a loss of {problem.loss:g}: the law's irreducible part is {_floor(problem):g}"
            raise UsageError(what, where="--loss", fix=f"ask for more than {_floor(problem):g}")
        return replace(problem, parameters=problem.law.split(needed)[0], sized_by="law")
    raise UsageError("nothing says how large the model is to be", fix="give --parameters, --train-flops or --loss")


def _floor(problem: Problem) -> float:
    return problem.law.irreducible


_RANGES: dict[str, tuple[float, float]] = {
    "parameters": (1e5, 1e14),
    "memory_bytes": (1e6, 1e16),
    "decode_slowdown": (1.0, 1e6),
    "tokens_per_second": (1e-6, 1e12),
    "train_flops": (1e12, 1e32),
    "cost": (1e-6, 1e12),
    "loss": (1e-3, 1e2),
}


def _check(problem: Problem) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(problem, name)
        if value is not None and not least <= value <= most:
            flag = "--" + name.removesuffix("_bytes").replace("_", "-")
            what = f"{value:g} is out of range"
            raise UsageError(what, where=flag, fix=f"use {_amount(least)} to {_amount(most)}")
    for name in ("tokens_per_second", "cost"):
        if getattr(problem, name) is not None and problem.device is None:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} needs to know the hardware", where=flag, fix="add --on, e.g. --on h100-80gb")
    if problem.cost is not None and problem.dollars_per_flop is None and problem.device is not None:
        what = f"the catalogue has no price of {problem.device.name}"
        raise UsageError(what, where="--cost", fix="use --train-flops, or a device with a price")
    if not 64 <= problem.style.vocab_size <= 2**24:
        raise UsageError(f"a vocabulary of {problem.style.vocab_size:,}", where="--vocab", fix="use 64 to 16,777,216")
    if not 16 <= problem.style.context <= 2**27:
        raise UsageError(f"a context of {problem.style.context:,}", where="--context", fix="use 16 to 134,217,728")
    if problem.train_context is not None and not 1 <= problem.train_context <= problem.style.context:
        what = f"training sequences of {problem.train_context:,} tokens in a context of {problem.style.context:,}"
        raise UsageError(what, where="--train-context", fix=f"use 1 to {problem.style.context:,}")
    for experts in problem.experts:
        if not 1 <= experts <= 4096:
            raise UsageError(f"{experts} experts", where="--experts", fix="use 1 (none) to 4,096")
    if not 1 <= problem.batch <= 2**20 or not 1 <= problem.count <= 2**20:
        raise UsageError("batches and devices are counted from 1", fix="use 1 to 1,048,576")


def _amount(value: float) -> str:
    return f"{value:g}" if value < 1000 else format_count(value)
