"""How a run trains: every setting with its default, and the rules between them. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Gt, Le, Lt

from vitruvius.spec.recomputing import Checkpointing  # noqa: TC001 (pydantic reads the annotation)
from vitruvius.training.settings import (
    EngineSettings,
    Guard,
    Loader,
    Pairs,
    Recovery,
    Samples,
    Scaler,
    Watch,
    ZClipSettings,
)
from vitruvius.training.settings.preprocess import HookUse  # noqa: TC001 (pydantic reads the annotation)
from vitruvius.training.settings.recovery import steps_between_checkpoints
from vitruvius.training.settings.shape import ShapeSchedule, settled

if TYPE_CHECKING:
    from pathlib import Path

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
    preprocess: tuple[HookUse, ...] = ()
    """Functions that change each sample before it is learned from, one after another:
    `[{hook: fim, options: {rate: 0.9}}, {hook: "hooks.py:mask_digits"}]`; see [loader](training/loader.md)."""
    shape: tuple[ShapeSchedule, ...] = ()
    """Fields of the architecture that change in training, by step or by a signal: `[{field:
    blocks.local.mixer.sees.sliding, steps: {0: 64, 500: 128}}]`; [schedules](training/architecture-schedules.md)."""
    data_check: Literal["hashes", "sizes"] = "hashes"
    """What opening the data compares with its index: every byte, or only the lengths of the files."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Draws the first weights and the order of the samples."""

    objective: Literal["causal-lm", "masked-lm", "prefix-lm", "continuation", "seq2seq"] | None = None
    """What is learned. When not given: `masked-lm` under an mlm head, `continuation` with an encoder, `causal-lm`
    elsewhere. `seq2seq` reads data that `data pairs` wrote."""
    mask_rate: Annotated[float, Gt(0.0), Le(1.0)] = 0.15
    """Share of the tokens that `masked-lm` asks for."""
    mask_token: CountOrNone | None = None
    """Id that hides a token in `masked-lm`; the last of the architecture's vocabulary when not given."""
    optimizer: Literal["adamw", "adamw-8bit", "adamw-8bit-paged", "muon"] = "adamw"
    """How weights follow gradients; `muon` is for the matrices inside layers, the rest follows AdamW. `adamw-8bit`
    keeps AdamW's moments in 8 bits, `adamw-8bit-paged` in pages that leave a full GPU; see
    [precision](training/precision.md)."""
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
    clipping: Literal["norm", "zclip"] = "norm"
    """What limits the gradients' norm: `norm` is `clip` alone; `zclip` scales outliers among the norms of the run down,
    and `clip` is a ceiling above it."""
    clip: Positive | None = 1.0
    """Largest L2 norm over all gradients; larger ones are scaled down to it. null: no such limit."""
    z_loss: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Coefficient of the mean squared log-sum-exp of the logits, which is added to the loss; 1e-4 keeps logits from
    drifting (PaLM)."""
    ema: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """Decay per update of an average of the weights, which is validated and saved besides them; null: there is none."""

    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of weights and activations; the optimizer keeps fp32 masters either way. `fp16` scales the loss,
    and is for devices without bf16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a CUDA device when there is one."""
    threads: Annotated[int, Ge(1), Le(4096)] | None = None
    """CPU threads; torch's own choice when not given. Bits repeat only for the same number."""
    compile: Literal["none", "default"] = "none"
    """`default` runs the model through torch.compile: a slow first step, faster ones after."""
    checkpointing: Checkpointing = "none"
    """`layers` keeps only the stream between layers and computes each layer again in the backward pass: less memory,
    about a third more time, the same bits. `layers/2` to `layers/4` do so with the first of every 2 to 4 layers."""
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

    pairs: Pairs = field(default_factory=Pairs)
    """How `seq2seq` reads pairs, and how it is scored."""
    loader: Loader = field(default_factory=Loader)
    """How batches are read ahead."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """Which processes and devices share the work."""
    scaler: Scaler = field(default_factory=Scaler)
    """What the loss is multiplied by in fp16, so that small gradients do not vanish."""
    zclip: ZClipSettings = field(default_factory=ZClipSettings)
    """When the gradients' norm is an outlier."""
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
        curriculum=tuple(replace(stage, until=steps_until(stage, steps)) for stage in config.curriculum),
        shape=tuple(settled(schedule, steps) for schedule in config.shape),
        checkpoint_every=config.checkpoint_every or steps_between_checkpoints(steps),
        eval_every=max(10, steps // 10) if config.eval_every is None else config.eval_every,
    )


def steps_until(stage: CurriculumStage, steps: int) -> int:
    """The number of steps after which a stage ends; of a share, the nearest."""
    return stage.until if isinstance(stage.until, int) else max(1, round(stage.until * steps))


def natural_objective(architecture: Architecture) -> Literal["causal-lm", "masked-lm", "continuation"]:
    """What an architecture is made to learn."""
    if architecture.encoder is not None:
        return "continuation"
    return "causal-lm" if architecture.head.causal else "masked-lm"


def batches_of(shards: TokenShards, config: TrainConfig) -> PackedBatches:
    """The batches of a run; `config` is resolved.

    Raises UsageError or DataError where the data does not have what the config asks for.
    """
    from vitruvius.data import PackedBatches as Batches
    from vitruvius.data import Stage

    assert config.context is not None
    ensure_right_data(shards.directory, config)
    return Batches(
        shards,
        pairs=config.pairs.limits(config.context) if config.objective == "seq2seq" else None,
        batch=config.batch,
        context=config.context,
        seed=config.seed,
        packing=config.packing,
        mix=config.mix,
        curriculum=[
            Stage(until=steps_until(stage, config.steps), context=stage.context) for stage in config.curriculum
        ],
    )


def ensure_right_data(data: Path | str, config: TrainConfig) -> None:
    """Raise DataError where the objective reads pairs and the data has none, or the other way round."""
    from vitruvius.data.pairs.telling import ensure_pairs, ensure_running_text

    if config.objective == "seq2seq":
        ensure_pairs(data)
    elif config.objective == "continuation":
        ensure_running_text(data)


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON data."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in cast("list[Any]", value)]
    return value
