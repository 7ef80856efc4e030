"""Whole training runs drawn from a seed: an architecture, every setting there is, what goes wrong and when it stops.

Settings are read from the dataclasses. One that is a choice between words is drawn by its type, so that a new one is
drawn by itself; of a number or a list a type does not say which values are small enough for a test, and `DRAWERS` has
them. `undrawn()` names settings that have neither: a test fails then.

A draw that does not go together is refused with findings. Each names a setting; that one is left out, as the fix says,
until the rest is accepted: so most runs have some settings that meet for the first time.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import HealthCheck, Phase, given
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings
from specs import architectures  # pyright: ignore[reportMissingImports]

from vitruvius.errors import SpecError
from vitruvius.spec import findings as spec_findings
from vitruvius.spec import preset, preset_names, shrink
from vitruvius.spec.fields import all_fields
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.config import natural_objective
from vitruvius.training.rules import findings
from vitruvius.training.settings import SECTIONS
from vitruvius.training.settings.alarms import DETECTORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec import Architecture

VOCABULARY = 320
"""Of every drawn architecture; the data has 300, so that masks and the marks of `fim` find ids that are free."""
SOURCES = ("prose", "verse")
SET = 0.3
"""How often a setting is given at all."""
FIXED: dict[str, Any] = {"device": "cpu", "threads": 1, "compile": "none"}
"""Settings that are the same in every run here. Compiling takes minutes; it has tests of its own."""
LOOSE = ("engine",)
"""Sections drawn only for runs that are to be refused: several processes have tests of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong in the updates of some batches: which, follows from their tokens alone."""

    kind: Literal["nan", "spike", "memory"]
    modulus: int
    """Of the sum of a piece's tokens."""
    remainder: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """How a run ends before its time, as a share of all its updates or of its file operations."""

    how: Literal["stop", "kill in an update", "kill at a file"]
    at: float
    changes: Mapping[str, Any]
    """Settings that change nothing that is learned, for the run that goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRun:
    """A run that was drawn, and what is done to it."""

    seed: int
    architecture: Architecture
    asked: dict[str, Any]
    """The settings as they were drawn, those included that were refused."""
    settings: dict[str, Any]
    """Those that go together, as a run file has them."""
    config: TrainConfig
    refused: tuple[Finding, ...]
    fault: Fault | None
    halts: tuple[Halt, ...]

    @property
    def wants_pairs(self) -> bool:
        """Whether it reads pairs."""
        return self.config.objective == "seq2seq"


def draw(seed: int, *, quick: bool = False) -> AnyRun:
    """The run of a seed, always the same. quick: of the small architectures only."""
    dice = random.Random(f"any run {seed}")
    architecture = _architecture(dice, seed, quick=quick)
    asked = _settings(dice, architecture)
    settings, config, refused = accepted(asked, architecture)
    fault = None
    if dice.random() < 0.3:
        kind = dice.choice(("nan", "spike", "memory"))
        fault = Fault(kind=kind, modulus=dice.choice((3, 5, 9)), remainder=dice.randrange(3))
    return AnyRun(
        seed=seed,
        architecture=architecture,
        asked=asked,
        settings=settings,
        config=config,
        refused=tuple(refused),
        fault=fault,
        halts=tuple(_halt(dice, settings, architecture) for _ in range(dice.choice((1, 1, 2)))),
    )


def accepted(asked: Mapping[str, Any], architecture: Architecture) -> tuple[dict[str, Any], TrainConfig, list[Finding]]:
    """What is left of settings when each that a finding names is left out; the config, and the findings."""
    left, refused = deepcopy(dict(asked)), []
    while True:
        try:
            return left, ensure(config_of(left), architecture), refused
        except SpecError as error:
            refused += error.findings
            for finding in error.findings:
                check_finding(finding)
            _leave_out(left, error.findings)


def check_finding(finding: Finding) -> None:
    """A finding says where, what and the way out."""
    where = f"{finding.path}: {finding.what}"
    assert finding.path.startswith("train."), where
    assert finding.what, where
    assert finding.fix, where
    assert "Error" not in finding.what, where


def config_of(settings: Mapping[str, Any]) -> TrainConfig:
    """The config that settings in the form of a run file mean. Raises SpecError with findings."""
    from vitruvius.training.checking import from_plain

    return from_plain(dict(settings))


def _leave_out(left: dict[str, Any], found: tuple[Finding, ...]) -> None:
    """Take away each setting that a finding names; where it is a default that does not fit, the whole of the rest."""
    before = repr(left)
    for finding in found:
        name, *inside = finding.path.removeprefix("train.").split(".")
        section = left.get(name)
        if name in SECTIONS and isinstance(section, dict) and inside and inside[0] in section:
            del section[inside[0]]
        else:
            left.pop(name, None)
    if repr(left) == before:
        # What is named was not given: then something else asked for it, which goes one by one.
        free = [name for name in left if name not in {*FIXED, "steps", "batch"}]
        assert free, f"nothing is left to leave out, and there is {found[0]}"
        del left[free[-1]]


# ----------------------------------------------------------------------------------------------------------------------
# Architectures


def _architecture(dice: random.Random, seed: int, *, quick: bool) -> Architecture:
    while True:
        if dice.random() < 0.5:
            found = shrink(preset(dice.choice(SMALL if quick else preset_names())))
        else:
            found = _random_spec(dice.randrange(2**32))
        found = replace(found, vocab_size=VOCABULARY)
        wrong = any(finding.severity == "error" for finding in spec_findings(found))
        if not wrong and not findings(TrainConfig(), found):
            return found


SMALL = ("tiny-gpt2", "context-aware-bert", "seq2seq-small", "tiny-qwen3-moe", "tiny-longcontext", "mamba2", "speedrun")


def _random_spec(number: int) -> Architecture:
    """One of the random valid specs that the contract tests draw."""
    found: list[Architecture] = []

    @seeded(number)
    @hypothesis_settings(
        max_examples=3,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(architectures())
    def take(architecture: Architecture) -> None:
        found.append(architecture)

    take()
    return found[-1]  # the first is the smallest there is


# ----------------------------------------------------------------------------------------------------------------------
# Settings


def leaves(config: type = TrainConfig, above: str = "") -> Iterator[tuple[str, Any]]:
    """(path, annotation) of every setting, those of sections included."""
    hints = get_type_hints(config, include_extras=True)
    for each in fields(config):
        path = above + each.name
        if is_dataclass(hints[each.name]):
            yield from leaves(hints[each.name], f"{path}.")
        else:
            yield path, hints[each.name]


def undrawn() -> list[str]:
    """Settings that neither a type nor `DRAWERS` knows how to draw."""
    return [path for path, kind in leaves() if path not in FIXED | DRAWERS and not _words(kind)]


def _words(annotation: Any) -> tuple[Any, ...]:
    """The values of a choice between words, null among them; none where it is something else."""
    origin = get_origin(annotation)
    if origin is Literal:
        return get_args(annotation)
    if origin is Annotated:
        return _words(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        inner = [_words(part) for part in get_args(annotation) if part is not NoneType]
        return (None, *(word for words in inner for word in words)) if all(inner) else ()
    return (False, True) if annotation is bool else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a drawer may know: the architecture, and the settings drawn before it."""

    architecture: Architecture
    given: Mapping[str, Any]

    @property
    def objective(self) -> str:
        """What will be learned."""
        return self.given.get("objective") or natural_objective(self.architecture)

    @property
    def steps(self) -> int:
        """Of the run."""
        return self.given["steps"]


def _settings(dice: random.Random, architecture: Architecture) -> dict[str, Any]:
    given: dict[str, Any] = dict(FIXED)
    around = Around(architecture=architecture, given=given)
    loose = dice.random() < 0.1
    for path, kind in leaves():
        name, _, inside = path.partition(".")
        if path in FIXED or (name in LOOSE and not loose):
            continue
        if path not in ALWAYS and dice.random() > OFTEN.get(path, SET):
            continue
        value = DRAWERS[path](dice, around) if path in DRAWERS else dice.choice(_words(kind))
        if inside:
            given.setdefault(name, {})[inside] = value
        else:
            given[name] = value
    return given


ALWAYS = {"steps", "batch", "context", "seed", "checkpoint_every", "final_eval_batches"}
OFTEN = {"guard.window": 0.9, "guard.every": 0.6, "objective": 0.15, "shape": 0.4, "dtype": 0.7, "samples.prompts": 0.6}
OFTEN |= {"accumulate": 0.5, "optimizer": 0.5, "packing": 0.35, "pairs.score": 0.1, "pairs.lengths": 0.1}
OFTEN |= {"pairs.longer": 0.1, "pairs.source": 0.1, "pairs.target": 0.1, "zclip.warmup": 0.25, "eval_every": 0.6}
OFTEN |= {"watch.sinks": 0.08, "zclip.z": 0.15, "zclip.decay": 0.15, "muon_lr": 0.15}
OFTEN |= {f"scaler.{name}": 0.15 for name in ("kind", "initial", "growth", "growth_every", "backoff", "overflows")}
"""How often a setting is given where it is not `SET`: what many others wait for, or what is mostly refused."""


def _of(*values: Any) -> Callable[[random.Random, Around], Any]:
    return lambda dice, _around: dice.choice(values)


def _context(dice: random.Random, around: Around) -> int:
    most = around.architecture.context
    return min(most, dice.choice((8, 16, 24, 32, 48)))


def _curriculum(dice: random.Random, around: Around) -> list[dict[str, Any]]:
    context = around.given["context"]
    lengths = sorted(dice.sample([n for n in range(2, context + 1) if context % n == 0], k=1))
    return [{"until": dice.choice((1, 2, 0.5)), "context": length} for length in lengths]


def _preprocess(dice: random.Random, _around: Around) -> list[dict[str, Any]]:
    ids = {"prefix_id": 310, "suffix_id": 311, "middle_id": 312}
    hooks = [
        {"hook": "fim", "options": {"rate": 0.9} | dice.choice(({}, ids, {"spm": 1.0}))},
        {"hook": "span-mask", "options": dice.choice(({}, {"rate": 0.4, "mean": 2, "ask": "hidden"}))},
        {"hook": "token-drop", "options": dice.choice(({"by": "sample"}, {"rate": 0.3, "mask_id": 315}, {}))},
        {"hook": "HOOKS/hooks.py:digits", "options": dice.choice(({}, {"rate": 0.5}))},
    ]
    return dice.sample(hooks, k=dice.choice((1, 1, 2)))


def _shape(dice: random.Random, around: Around) -> list[dict[str, Any]]:
    known = all_fields(around.architecture)
    chosen = dice.sample(known, k=min(len(known), dice.choice((1, 2))))
    schedules: list[dict[str, Any]] = []
    for field in chosen:
        values = [_other(dice, field.value, field.mark.form) for _ in range(2)]
        if dice.random() < 0.5:
            signal = dice.choice(("loss", "grad_norm", "val_loss", "attention_entropy", "stream_rms", "router_entropy"))
            when = {"signal": signal, "over": dice.choice((1, 2))}
            when |= dice.choice(({"above": [0.001, 0.002]}, {"plateau": {"patience": 1}}, {"below": [1e6, 1e5]}))
            schedules.append({"field": field.path, "when": when, "then": values})
            continue
        between = "step" if field.mark.form == "text" else dice.choice(("step", "linear", "cosine"))
        schedule = {"field": field.path, "steps": {"0": values[0], dice.choice(("2", "0.7")): values[1]}}
        schedules.append(schedule | ({} if between == "step" else {"between": between, "every": 1}))
    return schedules


def _other(dice: random.Random, value: Any, form: str) -> Any:
    """Another value of a field that may change."""
    if form == "text":
        return dice.choice((value, "causal", "causal & sliding(5)"))
    if form == "count":
        return dice.choice((1, 2, 3, 7, 12))
    return round((value if isinstance(value, (int, float)) else 1.0) * dice.choice((0.5, 1.1, 2.0)), 6)


def _alarms(dice: random.Random, _around: Around) -> dict[str, Any]:
    rules = (None, {"above": 1e-3}, {"above": 0.5, "lasting": 2}, {"growth": 1.001}, {"z": 0.1}, {"below": 1e6})
    return {name: dice.choice(rules) for name in dice.sample(sorted(DETECTORS), k=2)}


def _prompts(dice: random.Random, around: Around) -> list[str]:
    fills = around.objective == "masked-lm"
    return dice.choice(
        (["The [MASK] carries"], ["[MASK]", "a [MASK] b [MASK]"]) if fills else (["The"], ["", "The arch"])
    )


def _mix(dice: random.Random, _around: Around) -> dict[str, float]:
    return dice.choice(({"prose": 1.0}, {"prose": 0.3, "verse": 2.0}, {"prose": 1.0, "verse": 0.0}, {"verse": 0.0}))


DRAWERS: dict[str, Callable[[random.Random, Around], Any]] = {
    "steps": _of(3, 4, 5, 6, 7, 10, 12),
    "batch": _of(1, 2, 3, 4, 6),
    "accumulate": _of(1, 2, 2, 3),
    "context": _context,
    "mix": _mix,
    "curriculum": _curriculum,
    "preprocess": _preprocess,
    "shape": _shape,
    "seed": lambda dice, _around: dice.choice((0, 1, 7, 2**63 - 1, dice.randrange(2**40))),
    "mask_rate": _of(0.05, 0.5, 1.0),
    "mask_token": _of(0, 305, 319, 320, None),
    "lr": _of(1e-4, 1e-3, 1e-2),
    "wsd_decay": _of(0.1, 0.5, 0.9),
    "warmup": lambda dice, around: dice.choice((0, 1, 2, around.steps)),
    "min_lr": _of(0.0, 0.5, 1.0),
    "betas": _of([0.9, 0.999], [0.0, 0.0], [0.5, 0.9]),
    "eps": _of(1e-12, 1e-3),
    "weight_decay": _of(0.0, 1.0),
    "muon_lr": _of(1e-3, 0.02),
    "muon_momentum": _of(0.0, 0.5, 0.99),
    "muon_iterations": _of(1, 3, 7),
    "clip": _of(None, 0.01, 100.0),
    "z_loss": _of(1e-4, 1e-2, 1.0),
    "ema": _of(0.5, 0.999, None),
    "checkpoint_every": _of(1, 2, 3, 100),
    "keep": _of(1, 2, 3),
    "eval_every": _of(0, 1, 2, 3),
    "eval_batches": _of(1, 2),
    "final_eval_batches": _of(1, 2),
    "pairs.source": _of(4, 16, 1000),
    "pairs.target": _of(2, 8, 1000),
    "pairs.score": _of(0, 1, 3),
    "loader.workers": _of(0, 1, 2),
    "loader.ahead": _of(1, 2, 5),
    "loader.timeout": _of(30.0, 60.0),
    "engine.tensor_parallel": _of(1, 2),
    "engine.expert_parallel": _of(1, 2),
    "engine.timeout": _of(60, 600),
    "scaler.initial": _of(1.0, 1024.0, 2.0**40),
    "scaler.growth": _of(1.0, 4.0),
    "scaler.growth_every": _of(1, 2, 5),
    "scaler.backoff": _of(0.25, 0.01),
    "scaler.overflows": _of(2, 20),
    "zclip.z": _of(0.1, 2.5),
    "zclip.decay": _of(0.0, 0.9),
    "zclip.warmup": _of(2, 3),
    "guard.loss_z": _of(None, 0.1, 3.0),
    "guard.grad_z": _of(None, 0.1, 3.0),
    "guard.window": _of(8, 8, 9, 64),
    "guard.lr_cut": _of(0.1, 0.9),
    "guard.retries": _of(0, 1, 2, 100),
    "guard.every": _of(None, 1, 2, 3),
    "guard.alarms": _alarms,
    "guard.baseline": _of(1, 2),
    "guard.history": _of(8, 9),
    "guard.rows": _of(1, 2, 1024),
    "guard.tokens": _of(1, 5, 512),
    "guard.keep_newest": _of(1, 2),
    "watch.every": _of(None, 1, 2, 3),
    "watch.measures": _of(["attention"], ["gradients", "updates"], [], ["stream", "output", "gates", "components"]),
    "watch.rows": _of(1, 2, 1024),
    "watch.tokens": _of(1, 5, 512),
    "watch.sinks": _of([], ["tensorboard"], ["wandb"], ["tensorboard", "tensorboard"]),
    "samples.every": _of(None, 1, 2, 5),
    "samples.prompts": _prompts,
    "samples.max_tokens": _of(1, 3, 6),
    "samples.temperature": _of(0.0, 0.8, 100.0),
    "samples.seed": _of(0, 9),
    "recovery.keep_every": _of(1, 2, 3, 4),
    "recovery.keep_best": _of(0, 1, 2),
}
"""What a type does not say: values that are small, and those at which something else happens."""


# ----------------------------------------------------------------------------------------------------------------------
# Halts

CHANGEABLE = ("loader", "recovery", "samples", "keep", "checkpointing", "data_check", "memory_check", "watch")
"""What a run that goes on may have otherwise, besides its engine."""


def _halt(dice: random.Random, settings: Mapping[str, Any], architecture: Architecture) -> Halt:
    how = dice.choice(("stop", "stop", "kill in an update", "kill at a file", "kill at a file"))
    fresh = _settings(dice, architecture)
    names = dice.sample(CHANGEABLE, k=dice.choice((0, 1, 3)))
    wanted = {name: fresh[name] for name in names if name in fresh}
    _left, config, _refused = accepted({**settings, **wanted}, architecture)
    return Halt(how=how, at=dice.random(), changes={name: getattr(config, name) for name in wanted})
