"""From sizing's parallel plans to settings of a run: which engine, how many pieces, and why nothing else. No torch.

The memory of a rank, the times and what fits are those of `vitruvius plan`; here is said which of its arrangements
`vitruvius train` has an engine for, and the fastest of those is written as a section of a run file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import UsageError
from vitruvius.sizing.communication import network_of
from vitruvius.sizing.parallel.deepspeed import DeepSpeed
from vitruvius.sizing.parallel.evaluate import Evaluation
from vitruvius.sizing.parallel.search import MOST_DEVICES, Refused, Search
from vitruvius.spec import resolve
from vitruvius.training.config import to_plain
from vitruvius.training.grouping import adamw_groups
from vitruvius.training.placing_kinds import is_planned, kind_of, name_of, nothing_of, refused_of, stages_of, why_not
from vitruvius.training.rules import findings
from vitruvius.training.settings import EngineSettings
from vitruvius.training.workload import workload_of
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.parallel.degrees import Degrees
    from vitruvius.sizing.parallel.evaluate import Plan
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

PLACING_SCHEMA = "vitruvius.train-placing/1"
MOST_SHOWN = 8
"""Alternatives, the fastest."""
ABOUT = 1.25
"""Times that are so close are told apart by what is simpler."""
_PORT = 29500
_SAYS = ("batch", "accumulate", "checkpointing", "dtype", "optimizer")
"""Settings that a placement writes out beside the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One arrangement of the devices, and whether it is ours."""

    plan: Plan
    config: TrainConfig | None
    """The run with it; None where there is no engine for it."""
    why_not: str
    """Empty where it can be run here."""

    kind: str | None = None
    """The kind of engine that was named, where one was."""

    @property
    def name(self) -> str:
        """`FSDP 8 x tensor 2`."""
        return name_of(self.plan.degrees, kind=self.kind)

    @property
    def step_seconds(self) -> float:
        """Expected, of an update of the whole batch."""
        return self.plan.step_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """How a run is spread over devices."""

    name: str
    device: Device
    count: int
    batch: int
    context: int
    chosen: Option | None
    """The fastest that fits and that there is an engine for."""
    others: tuple[Option, ...]
    """Those that fit, the fastest first, the chosen one left out."""
    refused: tuple[Refused, ...]
    """What does not fit, or cannot be arranged."""
    kind: str | None = None
    """The kind of engine that was named: nothing else was planned. None where none was."""

    def settings(self) -> dict[str, Any]:
        """The chosen one as settings of `train`. Raises UsageError where there is none."""
        chosen = self.chosen
        if chosen is None or chosen.config is None:
            of = "" if self.kind is None else f" of kind: {self.kind}"
            what = f"no arrangement{of} of {self.count} {self.device.name} fits and can be run"
            raise UsageError(what, fix=self.way_out)
        plain = to_plain(chosen.config)
        usual = asdict(EngineSettings())
        engine = {key: value for key, value in plain["engine"].items() if key == "kind" or value != usual[key]}
        device = "cpu" if self.device.tier == "cpu" else "cuda"
        return {**{key: plain[key] for key in _SAYS}, "device": device, "engine": engine}

    def yaml(self) -> str:
        """The same, to paste into a run file."""
        lines = ["train:"]
        for key, value in self.settings().items():
            shown = f"{{{', '.join(f'{k}: {v}' for k, v in value.items())}}}" if isinstance(value, dict) else value
            lines.append(f"  {key}: {shown}")
        return "\n".join(lines)

    def launch(self, arguments: str) -> str:
        """The command line. arguments: those of `vitruvius train`, as a shell reads them."""
        if self.chosen is None or self.count == 1:
            return f"vitruvius train {arguments}"
        per_node = min(self.count, self.device.per_node)
        nodes = -(-self.count // per_node)
        each = self.count // nodes
        if nodes == 1:
            return f"torchrun --standalone --nproc-per-node {each} -m vitruvius train {arguments}"
        meeting = f"--rdzv-backend c10d --rdzv-endpoint FIRST_HOST:{_PORT} --rdzv-id vitruvius"
        return f"torchrun --nnodes {nodes} --nproc-per-node {each} {meeting} -m vitruvius train {arguments}"

    @property
    def way_out(self) -> str:
        """What to do where nothing fits that can be run."""
        if self.kind is not None:
            other = "do what each arrangement below asks for" if self.others else "use more devices"
            return f"train.engine.kind: {self.kind} is named; leave it out to plan every kind, or {other}"
        if self.others:
            return "use more devices, or a batch that more ways of dealing out divide"
        return f"vitruvius plan says how many devices fit: --on {self.device.name} --count N"

    def to_dict(self, arguments: str) -> dict[str, Any]:
        """The machine-readable form, schema `vitruvius.train-placing/1`."""
        chosen = self.chosen
        return {
            "schema": PLACING_SCHEMA,
            "name": self.name,
            "device": self.device.name,
            "count": self.count,
            "batch": self.batch,
            "context_tokens": self.context,
            "kind": self.kind,
            "fits": chosen is not None,
            "train": None if chosen is None else self.settings(),
            "yaml": None if chosen is None else self.yaml(),
            "command": None if chosen is None else self.launch(arguments),
            "chosen": None if chosen is None else _option(chosen),
            "others": [_option(option) for option in self.others],
            "refused": [{"what": refused.what, "why": refused.why} for refused in self.refused],
            "way_out": None if chosen is not None else self.way_out,
        }


def _option(option: Option) -> dict[str, Any]:
    memory = option.plan.memory
    return {
        "name": option.name,
        "step_seconds": option.step_seconds,
        "tokens_per_second": option.plan.tokens_per_second,
        "micro_batch": option.plan.schedule.micro_batch,
        "micro_batches": option.plan.schedule.micro_batches,
        "checkpointing": option.plan.schedule.checkpointing,
        "memory": {
            "weights_bytes": memory.weights,
            "gradients_bytes": memory.gradients,
            "optimizer_bytes": memory.optimizer,
            "gathered_bytes": memory.gathered,
            "activations_bytes": memory.activations,
            "margin_bytes": memory.margin,
            "total_bytes": memory.total,
            "available_bytes": option.plan.available_bytes,
        },
        "why_not": option.why_not or None,
    }


def place(
    architecture: Architecture, config: TrainConfig, device: Device, count: int, *, kind: str | None = None
) -> Placing:
    """The fastest way to spread a run over devices that fits and has an engine; `config` is resolved.

    kind: the one kind of `train.engine` to plan, all of them where it is None. DeepSpeed's ZeRO-3 is planned where
    deepspeed is named: FSDP2 divides the same. Raises UsageError for a count or batch that no plan can have.
    """
    if not 1 <= count <= MOST_DEVICES:
        raise UsageError(f"{count:,} devices are out of range", where="--gpus", fix=f"use 1 to {MOST_DEVICES:,}")
    assert config.context is not None
    graph = resolve(architecture)
    deepspeed = DeepSpeed.of(graph, adamw_groups(graph, config), stages=stages_of(config, kind))
    evaluation = Evaluation(graph, workload_of(config), device, network_of(device), deepspeed=deepspeed)
    search = Search(evaluation, count, config.batch, ("none", "layers"))
    arranged = [degrees for degrees in search.degrees("whole") if is_planned(degrees, config, kind=kind)]
    planned = [plan for degrees in arranged for plan in search.planned(degrees)]
    fitting = [_judged(plan, config, architecture, kind) for plan in planned if plan.fits]
    chosen = _best([option for option in fitting if option.config is not None])
    if chosen is not None:
        chosen = replace(chosen, plan=evaluation.verified(chosen.plan))
    return Placing(
        name=architecture.name,
        device=device,
        count=count,
        batch=config.batch,
        context=config.context,
        chosen=chosen,
        others=tuple(_others(fitting, chosen)),
        refused=(
            *refused_of(search.refused, kind=kind),
            *_too_large(planned, kind),
            *(() if planned or kind is None else (nothing_of(kind, count),)),
        ),
        kind=kind,
    )


def _best(ours: Sequence[Option]) -> Option | None:
    """The fastest; of the same ranks without computing layers twice, where that is expected to cost next to nothing.

    The roofline counts the bytes of activations, and is blind to what small kernels cost besides.
    """
    first = min(ours, key=_rank, default=None)
    if first is None:
        return None
    alike = [option for option in ours if option.plan.degrees == first.plan.degrees]
    plain = [option for option in alike if option.plan.schedule.checkpointing == "none"]
    nearly = [option for option in plain if option.step_seconds <= ABOUT * first.step_seconds]
    return min(nearly, key=_rank, default=first)


def _rank(option: Option) -> tuple[float, int, bool, int, int]:
    """As plans are ranked; of those that are equally fast, what needs no further package comes first."""
    seconds, kinds, zero, memory = option.plan.rank
    return (seconds, kinds, kind_of(option.plan.degrees, kind=option.kind) == "deepspeed", zero, memory)


def _others(fitting: Sequence[Option], chosen: Option | None) -> Iterator[Option]:
    """The best schedule of every other arrangement, with what keeps it from being chosen."""
    best: dict[Degrees, Option] = {}
    for option in sorted(fitting, key=lambda option: (option.config is None, _rank(option))):
        best.setdefault(option.plan.degrees, option)
    rest = sorted(best.values(), key=_rank)
    for option in [each for each in rest if chosen is None or each.plan.degrees != chosen.plan.degrees][:MOST_SHOWN]:
        if option.why_not or chosen is None:
            yield option
            continue
        ratio = option.step_seconds / chosen.step_seconds
        kinds = option.plan.degrees.kinds
        slower = f"{ratio:.2f} times the time" if ratio >= 1.005 else "as fast, and takes more memory"
        simple = "as fast, and more to set up" if ratio < 1.005 and kinds > chosen.plan.degrees.kinds else slower
        yield replace(option, why_not=simple)


def _too_large(planned: Sequence[Plan], kind: str | None) -> Iterator[Refused]:
    """Arrangements of which no schedule fits."""
    fits = {plan.degrees for plan in planned if plan.fits}
    least: dict[str, Plan] = {}
    for plan in planned:
        name = name_of(plan.degrees, kind=kind)
        if plan.degrees not in fits and (name not in least or plan.memory.total < least[name].memory.total):
            least[name] = plan
    for name, plan in sorted(least.items(), key=lambda item: item[1].memory.total)[:MOST_SHOWN]:
        why = f"needs {format_bytes(plan.memory.total)} on a device that has {format_bytes(plan.available_bytes)}"
        yield Refused(what=name, why=why)


def _judged(plan: Plan, config: TrainConfig, architecture: Architecture, kind: str | None) -> Option:
    """A plan that fits, as settings of a run, or why there are none."""
    degrees, schedule = plan.degrees, plan.schedule
    why = why_not(degrees, schedule, config, kind=kind)
    if why:
        return Option(plan=plan, config=None, why_not=why, kind=kind)
    mine = kind_of(degrees, kind=kind)
    engine = replace(
        config.engine,
        kind=cast("Any", mine),
        zero=cast("Any", degrees.zero) if mine == "deepspeed" else None,
        tensor_parallel=degrees.tensor,
        expert_parallel=degrees.expert,
    )
    ours = replace(
        config,
        accumulate=schedule.micro_batches,
        checkpointing=cast("Any", schedule.checkpointing),
        engine=engine,
    )
    found = findings(ours, architecture)
    if found:
        return Option(plan=plan, config=None, why_not=f"{found[0].path}: {found[0].what}", kind=kind)
    return Option(plan=plan, config=ours, why_not="", kind=kind)
