"""From what was typed to a bench: who takes part, at which lengths, in which phases; and what is wrong with it."""

from __future__ import annotations

from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vitruvius.errors import UsageError
from vitruvius.evals import machine as machines
from vitruvius.evals.bench import bench
from vitruvius.evals.request import Contender, Listener, Request
from vitruvius.evals.timing import RUNS, WARMUPS
from vitruvius.lab.steps import PHASES
from vitruvius.nn import build
from vitruvius.nn.place import BackendName
from vitruvius.nn.weights import find_checkpoint, load_model
from vitruvius.runs.shaped import spec_of
from vitruvius.spec import read_with_findings, resolve
from vitruvius.spec.reporting import did_you_mean, listed
from vitruvius.units import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.errors import Finding
    from vitruvius.evals.machine import Effort, Machine
    from vitruvius.evals.rows import Bench
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture

LENGTHS = (4_096, 16_384, 65_536, 102_400)
"""Tokens of context at which designs for long texts are compared."""
DTYPES = ("fp32", "bf16", "fp16")
_FRACTIONS = (16, 4, 1)
"""Parts of the context that stand in for those lengths where it is shorter than most of them."""
_LARGEST_BATCH, _LONGEST_MINUTES = 2**16, 24 * 60
_SAME_AS = " again"


def contenders_of(
    spec: str, against: str | None, *, dtype: str, overrides: Sequence[str] = (), seed: int = 0
) -> tuple[list[Contender], list[Finding]]:
    """Who takes part: SPEC or a run folder, and what it stands against, a SPEC, a run folder or a backend.

    Raises SpecError, UsageError or RunError as reading them does.
    """
    if dtype not in DTYPES:
        raise UsageError(f"there is no number format {dtype!r} to bench in", fix=f"use one of {', '.join(DTYPES)}")
    first, findings = _contender(spec, dtype=dtype, overrides=overrides, seed=seed)
    if against is None:
        return [first], findings
    backends: tuple[str, ...] = get_args(BackendName)
    if against in backends:
        other = Contender(
            name=f"{first.name} ({against})",
            architecture=first.architecture,
            model=first.model,
            backend=against,  # pyright: ignore[reportArgumentType] (one of the literals, as just asked)
        )
        return [first, other], findings
    try:
        other, more = _contender(against, dtype=dtype, overrides=(), seed=seed)
    except UsageError as error:
        fix = f"{error.fix}; or a backend: {', '.join(backends)}"
        raise UsageError(error.what, where=error.where, fix=fix) from None
    if other.name == first.name:
        other = Contender(name=other.name + _SAME_AS, architecture=other.architecture, model=other.model)
    return [first, other], [*findings, *more]


def _contender(spec: str, *, dtype: str, overrides: Sequence[str], seed: int) -> tuple[Contender, list[Finding]]:
    if Path(spec).is_dir():
        if overrides:
            raise UsageError("a run's architecture cannot be changed", where="--set", fix="name a SPEC, or drop --set")
        architecture = spec_of(*find_checkpoint(spec))
        name = Path(spec).resolve().name or "run"
        return Contender(name=name, architecture=architecture, model=_loaded(spec, dtype)), []
    reading = read_with_findings(spec, overrides=overrides)
    return contender(reading.architecture, dtype=dtype, seed=seed), list(reading.findings)


def contender(architecture: Architecture, *, dtype: str, seed: int = 0) -> Contender:
    """An architecture with fresh weights, built when its model is asked for."""

    @cache
    def model() -> Model:
        return build(architecture, dtype=dtype, device=machines.torch_device(), seed=seed).eval()

    return Contender(name=architecture.name, architecture=architecture, model=model)


def _loaded(run: str, dtype: str) -> Callable[[], Model]:
    @cache
    def model() -> Model:
        return load_model(run, dtype=dtype, device=machines.torch_device())

    return model


def request_of(
    contenders: Sequence[Contender],
    *,
    lengths: str | Sequence[int] | None = None,
    phases: str = "prefill,decode,train",
    batch: int = 1,
    dtype: str = "bf16",
    warmups: int = WARMUPS,
    runs: int = RUNS,
    minutes: float = 3.0,
    seed: int = 0,
    threads: int | None = None,
    effort: Effort | None = None,
) -> Request:
    """What is to be benched, checked against the architectures. Raises UsageError."""
    if not 1 <= batch <= _LARGEST_BATCH:
        raise UsageError(f"batch={batch} is out of range", fix=f"use a whole number from 1 to {_LARGEST_BATCH:,}")
    if not isfinite(minutes) or not 0 < minutes <= _LONGEST_MINUTES:
        raise UsageError(
            f"{minutes:g} minutes are no time to bench in", where="--minutes", fix=f"use up to {_LONGEST_MINUTES:,}"
        )
    if effort is None:
        effort = machines.BRIEF if minutes >= 1 else machines.QUICK
    return Request(
        lengths=_lengths(lengths, contenders),
        phases=_phases(phases),
        batch=batch,
        dtype=dtype,
        warmups=warmups,
        runs=runs,
        seconds=60.0 * minutes,
        seed=seed,
        threads=threads,
        effort=effort,
    )


def compare(*architectures: Architecture, dtype: str = "bf16", seed: int = 0, **asked: Any) -> Bench:
    """Bench architectures beside each other from Python, the first against the others.

    asked: as `request_of` takes it. Raises SpecError or UsageError.
    """
    contenders = [contender(architecture, dtype=dtype, seed=seed) for architecture in architectures]
    return run(contenders, request_of(contenders, dtype=dtype, seed=seed, **asked))


def run(
    contenders: Sequence[Contender],
    request: Request,
    *,
    machine: Machine | None = None,
    say: Listener = lambda _text: None,
) -> Bench:
    """Bench in every phase there is, training's too."""
    return bench(contenders, request, PHASES, machine=machine, say=say)


def _phases(text: str) -> tuple[str, ...]:
    asked = [part.strip() for part in text.split(",") if part.strip()]
    for name in asked:
        if name not in PHASES:
            fix = did_you_mean(name, PHASES) or f"use {listed(PHASES)}"
            raise UsageError(f"there is no phase {name[:40]!r}", where="--phases", fix=fix)
    if not asked:
        raise UsageError("no phase was named", where="--phases", fix=f"use {listed(PHASES)}")
    # In the order of the table: training comes last, since it changes how the process keeps memory.
    return tuple(name for name in PHASES if name in asked)


def _lengths(asked: str | Sequence[int] | None, contenders: Sequence[Contender]) -> tuple[int, ...]:
    longest = min(longest_of(contender.architecture) for contender in contenders)
    if asked is None:
        return default_lengths(longest)
    found = [parse_tokens(part.strip()) for part in asked.split(",")] if isinstance(asked, str) else list(asked)
    for length in found:
        if length < 1:
            raise UsageError(f"{length} is no length", where="--lengths", fix="use whole numbers from 1 on")
        if length > longest:
            who = min(contenders, key=lambda contender: longest_of(contender.architecture))
            raise UsageError(
                f"{length:,} tokens are beyond {who.architecture.name}, which takes {longest:,} at most",
                where="--lengths",
                fix=f"use at most {longest:,}, or raise its context: --set context={length}",
            )
    return tuple(dict.fromkeys(sorted(found)))


def default_lengths(longest: int) -> tuple[int, ...]:
    """The usual lengths that fit; where fewer than two do, a 16th, a quarter and all of what there is."""
    usual = [length for length in LENGTHS if length <= longest]
    if len(usual) >= 2:
        return tuple(usual)
    return tuple(dict.fromkeys(max(1, longest // part) for part in _FRACTIONS))


def longest_of(architecture: Architecture) -> int:
    """Tokens that an architecture takes: its context, and no more than its table of positions can grow to."""
    position, scope = architecture.embedding.position, resolve(architecture).scope
    table = None if position is None else position.longest_sequence(scope)
    return architecture.context if table is None else min(architecture.context, table)
