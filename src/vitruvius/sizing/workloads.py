"""From what a caller says to a checked `Workload`."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args

from vitruvius.errors import UsageError
from vitruvius.sizing.formats import FORMATS, bytes_per_value, weight_format
from vitruvius.sizing.workload import Adapters, Kernel, Loss, Mode, Optimizer, Workload
from vitruvius.spec.recomputing import Checkpointing

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

LONGEST = 2**40 - 1
LARGEST_BATCH = 2**31
MOST_RANK = 2**16
MOST_MICRO_BATCHES = 2**20
MODES: tuple[str, ...] = get_args(Mode)
_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": MODES,
    "optimizer": get_args(Optimizer),
    "checkpointing": get_args(Checkpointing),
    "loss": get_args(Loss),
    "attention": get_args(Kernel),
}
_ADAPTERS: dict[str, tuple[str, ...]] = {
    "targets": get_args(Adapters.__dataclass_fields__["targets"].type) or ("linear", "attention"),
    "experts": ("each", "none"),
}
_NAMES = {"dtype": "weights", "cache_dtype": "cache"}
"""What callers say for some fields of a workload."""


def workload_of(base: Workload | None, said: dict[str, Any]) -> Workload:
    """The workload that keywords describe, on top of another one; keywords that are None say nothing.

    `dtype` and `cache_dtype` are its formats; `rank`, `targets` and `experts` its adapters'. Raises UsageError.
    """
    workload = Workload() if base is None else base
    given = {_NAMES.get(name, name): value for name, value in said.items() if value is not None}
    known = {f.name for f in fields(Workload)}
    own = {f.name for f in fields(Adapters)}
    for name in given:
        if name not in known | own:
            near = difflib.get_close_matches(name, [*known, *own, *_NAMES], n=1)
            fix = f"did you mean {near[0]}?" if near else f"use {', '.join(sorted(known | own | set(_NAMES)))}"
            raise UsageError(f"a workload has no {name[:60]!r}", fix=fix)
    adapters = {name: value for name, value in given.items() if name in own}
    if given.get("mode", workload.mode) == "qlora" and "weights" not in given and base is None:
        given["weights"] = "nf4"
    workload = replace(workload, **{name: value for name, value in given.items() if name in known})
    return replace(workload, adapters=replace(workload.adapters, **adapters)) if adapters else workload


def check(workload: Workload, graph: Graph) -> None:
    """Raise UsageError for what is out of range, unknown, or does not go together."""
    whole = (
        ("context", workload.context, LONGEST),
        ("batch", workload.batch, LARGEST_BATCH),
        ("accumulate", workload.accumulate, MOST_MICRO_BATCHES),
        ("rank", workload.adapters.rank, MOST_RANK),
    )
    for name, value, most in whole:
        if value is None and name == "context":
            continue
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"{name}={value!r} is out of range", fix=f"use a whole number from 1 to {most:,}")
    for name, choices in _CHOICES.items():
        _one_of(name, getattr(workload, name), choices)
    for name, choices in _ADAPTERS.items():
        _one_of(name, getattr(workload.adapters, name), choices)
    form = weight_format(workload.weights)
    if workload.cache is not None:
        bytes_per_value(workload.cache)
    if workload.mode == "qlora" and not form.is_quantised:
        formats = ", ".join(name for name, other in FORMATS.items() if other.is_quantised)
        what = f"qlora freezes quantised weights, and {workload.weights} is a plain format"
        raise UsageError(what, fix=f"use the mode lora, or one of {formats}")
    if workload.mode in {"train", "lora"} and form.is_quantised:
        what = f"weights in {workload.weights} have no gradients, so the mode {workload.mode} cannot use them"
        raise UsageError(
            what, fix="use the mode qlora, which trains adapters over them, or a plain format such as bf16"
        )
    _check_positions(graph, graph.scope.context if workload.context is None else workload.context)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        what = f"{name} cannot be" if name.endswith("s") else f"there is no {name}"
        raise UsageError(f"{what} {repr(value)[:60]}", fix=f"use one of {', '.join(choices)}")


def _check_positions(graph: Graph, tokens: int) -> None:
    position = graph.architecture.embedding.position
    longest = None if position is None else position.longest_sequence(graph.scope)
    if longest is not None and tokens > longest:
        raise UsageError(
            f"{graph.architecture.name} has {longest:,} learned positions, and {tokens:,} tokens are asked for",
            where="embedding.position",
            fix=f"use a context of at most {longest:,}, or raise embedding.position.size",
        )
