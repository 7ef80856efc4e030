"""How a run trains: every setting with its default, and the rules between them. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Gt, Le, Lt

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.reporting import did_you_mean, listed
from vitruvius.training.settings import SECTIONS, EngineSettings, Guard, Loader, Recovery, Samples, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import TypeAdapter

    from vitruvius.data import PackedBatches, TokenShards
    from vitruvius.spec import Architecture

_LARGEST = 2**31 - 1
Count = Annotated[int, Ge(1), Le(_LARGEST)]
CountOrNone = Annotated[int, Ge(0), Le(_LARGEST)]
Fraction = Annotated[float, Ge(0.0), Le(1.0)]
Beta = Annotated[float, Ge(0.0), Lt(1.0)]
Positive = Annotated[float, Gt(0.0), Le(1e9)]

Share = Annotated[float, Gt(0.0), Lt(1.0)]
Weight = Annotated[float, Ge(0.0), Le(1e9)]

LONGEST_DEFAULT_WARMUP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumStage:
    """A part of a run that reads shorter samples."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    until: Count | Share
    """Where it ends: after so many steps, or after this share of them."""
    context: Count
    """Tokens per sample in it; divides the run's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a training run. What is None is filled in by `resolved`, and stands in `run.json` as a number."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    steps: Count = 1000
    """Optimizer steps of the whole run; the schedule ends there."""
    batch: Count = 8
    """Samples per optimizer step, however many pieces it is computed in."""
    accumulate: Count = 1
    """Pieces that a batch is computed in, one after another; divides `batch`. More pieces take less memory."""
    context: Count | None = None
    """Tokens per sample; the architecture's own context when not given."""
    documents: Literal["separate", "joined"] = "separate"
    """`separate`: attention and positions stay within a document. `joined`: a sample is one long text."""
    packing: Literal["stream", "best-fit", "one-document", "by-length"] = "stream"
    """What a sample is. `stream`: a window over all documents end to end. `best-fit`: whole documents that together
    fill it best; only those longer than the context are cut. `one-document`: one, and padding. `by-length`: pieces of
    documents in rows of equal length, each one document's."""
    mix: dict[str, Weight] | None = None
    """Weight of each source of the data, by name (0 leaves one out); when not given, those that the data was prepared
    with, or as much of each as there is."""
    curriculum: tuple[CurriculumStage, ...] = ()
    """Shorter samples first: `[{until: 0.3, context: 512}]`. Until that share of the steps, or that many, each sample
    is cut into equal pieces; a step has the same tokens all along."""
    data_check: Literal["hashes", "sizes"] = "hashes"
    """What opening the data compares with its index: every byte, or only the lengths of the files."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Draws the first weights and the order of the samples."""

    objective: Literal["causal-lm", "masked-lm", "prefix-lm", "continuation"] | None = None
    """What is learned. When not given: `masked-lm` under an mlm head, `continuation` with an encoder, `causal-lm`
    elsewhere."""
    mask_rate: Annotated[float, Gt(0.0), Le(1.0)] = 0.15
    """Share of the tokens that `masked-lm` asks for."""
    mask_token: CountOrNone | None = None
    """Id that hides a token in `masked-lm`; the last of the architecture's vocabulary when not given."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """How weights follow gradients; `muon` is for the matrices inside layers, the rest follows AdamW."""
    lr: Positive = 3e-3
    """Learning rate at the top of the schedule; right for widths around 128, less for wider models."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate goes down after warm-up; `wsd` stays at the top and goes down at the end."""
    wsd_decay: Share = 0.2
    """Share of the steps after warm-up over which `wsd` goes down, as 1 - sqrt."""
    warmup: CountOrNone | None = None
    """Steps over which the learning rate rises linearly; a twentieth of `steps`, at most 1,000, when not given."""
    min_lr: Fraction = 0.1
    """Learning rate of the last step, as a fraction of `lr`."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of AdamW's first and second moment per step."""
    eps: Positive = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: Annotated[float, Ge(0.0), Le(1e3)] = 0.1
    """Decoupled decay: each step multiplies a decayed weight by 1 - lr * weight_decay."""
    muon_lr: Positive | None = None
    """Muon's learning rate at the top of the schedule; `lr` when not given, which fits `match-rms-adamw`."""
    muon_momentum: Beta = 0.95
    """Decay of Muon's averaged gradient per step."""
    muon_momentum_kind: Literal["nesterov", "heavy-ball"] = "nesterov"
    """`nesterov` looks one step of momentum ahead."""
    muon_iterations: Annotated[int, Ge(1), Le(100)] = 5
    """Newton-Schulz iterations that make an update orthogonal."""
    muon_scale: Literal["match-rms-adamw", "original"] = "match-rms-adamw"
    """Size of an orthogonal update: `match-rms-adamw` is 0.2 sqrt(max(rows, columns)), `original` is
    sqrt(max(1, rows / columns)) and wants a `muon_lr` of about 0.02."""
    muon_dtype: Literal["bf16", "fp32"] = "bf16"
    """Number format of the Newton-Schulz iterations."""
    decay: Literal["matrices", "matrices-not-embeddings", "everything", "nothing"] = "matrices"
    """Which weights decay; `matrices` is everything but norm gains and biases."""
    clip: Positive | None = 1.0
    """Largest L2 norm over all gradients; larger ones are scaled down to it. null: no clipping."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """Number format of weights and activations; the optimizer keeps fp32 masters either way."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a CUDA device when there is one."""
    threads: Annotated[int, Ge(1), Le(4096)] | None = None
    """CPU threads; torch's own choice when not given. Bits repeat only for the same number."""
    compile: Literal["none", "default"] = "none"
    """`default` runs the model through torch.compile: a slow first step, faster ones after."""
    checkpointing: Literal["none", "layers"] = "none"
    """`layers` keeps only the stream between layers and computes each layer again in the backward pass: less memory,
    about a third more time, the same bits."""
    memory_check: Literal["refuse", "warn"] = "refuse"
    """What happens to a run on a CPU that is predicted to take more memory than there is: `warn` starts it anyway."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints; a tenth of `steps`, at least 10 and at most 1,000, when not given. The last step
    always writes one."""
    keep: Count = 2
    """Checkpoints to keep, the newest."""
    eval_every: CountOrNone | None = None
    """Steps between validations; a tenth of `steps`, at least 10, when not given. 0: only after the last step."""
    eval_batches: Count | None = 8
    """Batches of held-out samples per validation, always the same; null is all of them."""
    final_eval_batches: Count | None = None
    """As `eval_batches`, for the validation after the last step; null is all of them."""

    loader: Loader = field(default_factory=Loader)
    """How batches are read ahead."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """Which processes and devices share the work."""
    guard: Guard = field(default_factory=Guard)
    """What is looked for in every update, and what happens when it is found."""
    watch: Watch = field(default_factory=Watch)
    """What is measured while the run goes, and where it is told."""
    samples: Samples = field(default_factory=Samples)
    """Text that the model writes while it learns."""
    recovery: Recovery = field(default_factory=Recovery)
    """How checkpoints are written and kept, and what happens when memory runs out."""


def resolved(config: TrainConfig, architecture: Architecture) -> TrainConfig:
    """The config with every None that stands for a rule replaced by its number.

    `threads` and `device` stay as they are: they follow from the machine, and are settled when the run starts.
    """
    steps = config.steps
    warmup = config.warmup
    if warmup is None:
        warmup = min(LONGEST_DEFAULT_WARMUP, max(1, steps // 20)) if steps > 1 else 0
    objective = config.objective or natural_objective(architecture)
    return replace(
        config,
        context=config.context or architecture.context,
        objective=objective,
        mask_token=architecture.vocab_size - 1
        if objective == "masked-lm" and config.mask_token is None
        else config.mask_token,
        warmup=warmup,
        curriculum=tuple(replace(stage, until=_steps_until(stage, steps)) for stage in config.curriculum),
        checkpoint_every=config.checkpoint_every or min(1000, max(10, steps // 10)),
        eval_every=max(10, steps // 10) if config.eval_every is None else config.eval_every,
    )


def _steps_until(stage: CurriculumStage, steps: int) -> int:
    """The number of steps after which a stage ends; of a share, the nearest."""
    return stage.until if isinstance(stage.until, int) else max(1, round(stage.until * steps))


def natural_objective(architecture: Architecture) -> Literal["causal-lm", "masked-lm", "continuation"]:
    """What an architecture is made to learn."""
    if architecture.encoder is not None:
        return "continuation"
    return "causal-lm" if architecture.head.causal else "masked-lm"


def _objective_findings(config: TrainConfig, architecture: Architecture) -> Iterator[Finding]:
    natural, chosen = natural_objective(architecture), config.objective
    fits = {"causal-lm": {"causal-lm", "prefix-lm"}}.get(natural, {natural})
    if chosen is not None and chosen not in fits:
        what = f"{chosen} does not fit {architecture.name}, which is made for {natural}"
        yield Finding(path="train.objective", what=what, fix=f"use {' or '.join(sorted(fits))}")
    if chosen == "prefix-lm" and not any(
        getattr(block.mixer, "prefix", "masked") == "open" for block in architecture.blocks.values()
    ):
        what = "no mixer reads its prefix in both directions"
        fix = "set prefix: open in a mixer, or use objective: causal-lm"
        yield Finding(path="train.objective", what=what, fix=fix)
    if config.mask_token is not None and config.mask_token >= architecture.vocab_size:
        what = f"id {config.mask_token:,} is outside the vocabulary of {architecture.vocab_size:,}"
        yield Finding(path="train.mask_token", what=what, fix=f"use at most {architecture.vocab_size - 1:,}")


def _data_findings(config: TrainConfig, context: int | None) -> Iterator[Finding]:
    if config.mix is not None and not any(config.mix.values()):
        what = "no source has a weight above 0" if config.mix else "no source is named"
        yield Finding(path="train.mix", what=what, fix="write the weight of each source: mix: {web: 0.7, code: 0.3}")
    if config.curriculum and config.packing == "by-length":
        what = "the rows of by-length have lengths of their own, which no stage can cut"
        yield Finding(path="train.curriculum", what=what, fix="leave the curriculum out, or use packing: best-fit")
        return
    before = 0
    for number, stage in enumerate(config.curriculum):
        path, end = f"train.curriculum.{number}", _steps_until(stage, config.steps)
        if context is not None and context % stage.context:
            what = f"samples of {context:,} tokens cannot be cut into equal pieces of {stage.context:,}"
            yield Finding(path=f"{path}.context", what=what, fix=f"use a length that divides {context:,}")
        if end <= before:
            what = f"the stage ends at step {end:,}, and the one before it at step {before:,}"
            yield Finding(path=f"{path}.until", what=what, fix="let each stage end later than the one before")
        elif end > config.steps:
            what = f"the stage ends at step {end:,}, and the run has {config.steps:,}"
            yield Finding(path=f"{path}.until", what=what, fix=f"use at most {config.steps:,}, or a share below 1")
        before = max(before, end)


def _packing_findings(config: TrainConfig, architecture: Architecture) -> Iterator[Finding]:
    """Padding at the end of a sample is seen by nobody when attention is causal or documents are kept apart."""
    objective = config.objective or natural_objective(architecture)
    if config.packing == "stream":
        return
    if objective in {"prefix-lm", "continuation"}:
        what = f"{objective} reads a sample as one text, and samples of {config.packing} end in padding"
        yield Finding(path="train.packing", what=what, fix="use packing: stream")
    elif objective == "masked-lm" and config.documents == "joined":
        what = f"with documents: joined, every token would see the padding of {config.packing}"
        yield Finding(path="train.packing", what=what, fix="use documents: separate, or packing: stream")


def findings(config: TrainConfig, architecture: Architecture | None = None) -> list[Finding]:
    """What does not go together in a config, and with the architecture when it is given."""
    found: list[Finding] = []
    if config.batch % config.accumulate:
        divisors = [n for n in range(1, config.batch + 1) if config.batch % n == 0]
        found.append(
            Finding(
                path="train.accumulate",
                what=f"{config.accumulate} does not divide batch={config.batch}",
                fix=f"use one of {listed(map(str, divisors))}",
            )
        )
    if config.warmup is not None and config.warmup >= config.steps > 1:
        what = f"the learning rate would rise for {config.warmup:,} steps, and the run has {config.steps:,}"
        found.append(Finding(path="train.warmup", what=what, fix="use fewer warm-up steps, or more steps"))
    if config.muon_lr is not None and config.optimizer != "muon":
        what = f"a learning rate for Muon, and the optimizer is {config.optimizer}"
        found.append(Finding(path="train.muon_lr", what=what, fix="add optimizer: muon, or leave muon_lr out"))
    found += _data_findings(config, config.context or (None if architecture is None else architecture.context))
    if architecture is not None:
        found += _objective_findings(config, architecture)
        found += _packing_findings(config, architecture)
    for name in SECTIONS:
        found += getattr(config, name).findings(config, architecture)
    if architecture is not None and config.context is not None and config.context > architecture.context:
        what = f"{config.context:,} tokens are more than the architecture's context={architecture.context:,}"
        fix = f"use at most {architecture.context:,}, or raise it in the spec: --set context={config.context}"
        found.append(Finding(path="train.context", what=what, fix=fix))
    return found


def batches_of(shards: TokenShards, config: TrainConfig) -> PackedBatches:
    """The batches of a run; `config` is resolved.

    Raises UsageError or DataError where the data does not have what the config asks for.
    """
    from vitruvius.data import PackedBatches as Batches
    from vitruvius.data import Stage

    assert config.context is not None
    return Batches(
        shards,
        batch=config.batch,
        context=config.context,
        seed=config.seed,
        packing=config.packing,
        mix=config.mix,
        curriculum=[
            Stage(until=_steps_until(stage, config.steps), context=stage.context) for stage in config.curriculum
        ],
    )


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON data."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in cast("list[Any]", value)]
    return value


def from_plain(plain: dict[str, Any]) -> TrainConfig:
    """The config that plain data means, checked by itself.

    Raises SpecError with a finding for every key that is unknown and every value that is wrong; their paths start
    with `train.`.
    """
    from pydantic import ValidationError

    try:
        config = _adapter().validate_json(json.dumps(plain, allow_nan=True))
    except ValidationError as error:
        by_path: dict[str, Finding] = {}
        for entry in error.errors():
            finding = _explain(entry)
            by_path.setdefault(finding.path, finding)
        raise SpecError(list(by_path.values())) from None
    found = findings(config)
    if found:
        raise SpecError(found)
    return config


def ensure(config: TrainConfig, architecture: Architecture) -> TrainConfig:
    """Check a config that was built in Python and fill in its defaults.

    Raises SpecError with every finding.
    """
    checked = from_plain(to_plain(config))
    found = findings(checked, architecture)
    if found:
        raise SpecError(found)
    return resolved(checked, architecture)


def config_hash(config: TrainConfig, spec: dict[str, Any], fingerprint: str) -> str:
    """SHA-256 over everything that decides what a run computes; a checkpoint belongs to one such hash."""
    # What is computed twice comes out the same, so that it has no part in it.
    without = _WITHOUT_EFFECT | {name for name, section in SECTIONS.items() if section.effect == "none"}
    settings = {name: value for name, value in to_plain(config).items() if name not in without}
    text = json.dumps([settings, spec, fingerprint], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


_WITHOUT_EFFECT = {"checkpointing", "memory_check", "data_check"}
"""Settings that change how much memory a run takes or what it looks at first, and nothing that it computes."""


@cache
def _adapter() -> TypeAdapter[TrainConfig]:
    from pydantic import TypeAdapter as Adapter

    return Adapter(TrainConfig)


_TAGS = {"function-after", "constrained-int", "constrained-float", "int", "float"}
"""What pydantic puts into the path of a value that may be of several types."""
_BOUNDS = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "from"), "less_than": ("lt", "below")}
_BOUNDS |= {"less_than_equal": ("le", "at most")}
_TYPES = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number"}
_TYPES |= {"string_type": "text", "tuple_type": "a list", "finite_number": "a finite number"}
_TYPES |= {"too_short": "a list of two numbers", "too_long": "a list of two numbers", "missing": "two numbers"}
_TYPES |= {"dict_type": "a mapping", "dataclass_type": "a mapping"}


def _explain(entry: Any) -> Finding:
    """One of pydantic's errors in our words."""
    keys = [str(key) for key in entry["loc"] if key not in _TAGS]
    kind, context = entry["type"], entry.get("ctx", {})
    in_stage = keys[0] == "curriculum"
    owner = CurriculumStage if in_stage else SECTIONS.get(keys[0], TrainConfig) if len(keys) > 1 else TrainConfig
    if kind == "missing" and in_stage:
        path = ".".join(["train", *keys])
        return Finding(path=path, what=f"{keys[-1]} is missing", fix="write both: {until: 0.3, context: 512}")
    if kind == "missing":  # the second of two numbers: the pair is what is wrong
        keys = keys[:-1]
    path = ".".join(["train", *keys])
    known = [f.name for f in fields(owner)]
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        key = keys[-1]
        fix = did_you_mean(key, known) or f"the settings are {listed(known, limit=40)}"
        return Finding(path=path, what=f"there is no setting {key!r}", fix=fix)
    shown = json.dumps(entry.get("input"), ensure_ascii=False, default=str)[:40]
    if kind == "literal_error":
        return Finding(path=path, what=f"{shown} is not one of the choices", fix=f"use {context['expected']}")
    if kind in _BOUNDS:
        name, word = _BOUNDS[kind]
        return Finding(path=path, what=f"{shown} is out of range", fix=f"use a number {word} {context[name]:g}")
    due = _TYPES.get(kind)
    if due is None:
        return Finding(path=path, what=f"{shown}: {entry['msg'].lower()}", fix="see docs/training.md")
    return Finding(path=path, what=f"{shown} where {due} is due", fix=f"write {due}")
