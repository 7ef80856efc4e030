"""What can be changed so that a workload fits, from what changes least to what changes most.

Changes of one family exclude each other, the mildest first; families stand in the order in which one would try them:
first what leaves every result as it is, then how the model is trained or stored, then the model itself, then less of
it.
"""

from __future__ import annotations

import re
import shlex
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import VitruviusError
from vitruvius.sizing.formats import weight_format
from vitruvius.sizing.memory import cache_format, context_of
from vitruvius.sizing.workload import Workload
from vitruvius.spec.graph import resolve
from vitruvius.spec.validating import from_plain
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.graph import Graph

SHORTEST_WINDOW = 1024
"""Windows below this many tokens are not proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A change that may make a workload fit."""

    family: str
    what: str
    costs: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the workload, by name."""
    overrides: Mapping[str, object] = field(default_factory=dict[str, object])
    """Fields of the spec, by dotted path."""

    def then(self, other: Candidate) -> Candidate:
        """Both."""
        return Candidate(
            family=f"{self.family}+{other.family}",
            what=f"{self.what}, and {other.what}",
            costs="; ".join(part for part in (self.costs, other.costs) if part),
            settings={**self.settings, **other.settings},
            overrides={**self.overrides, **other.overrides},
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """What to add to the command."""
        flags = [f"--{_FLAGS[name]} {value}" for name, value in self.settings.items() if name in _FLAGS]
        sets: dict[str, object] = {_as_written(path): value for path, value in self.overrides.items()}
        flags += [f"--set {shlex.quote(f'{path}={value}')}" for path, value in sets.items()]
        return tuple(flags)

    def applied(self, graph: Graph, workload: Workload) -> tuple[Graph, Workload] | None:
        """The model and the workload after it, or None where the spec cannot be resolved then; rules are not asked."""
        known = {f.name for f in fields(Workload)}
        after = replace(workload, **{name: value for name, value in self.settings.items() if name in known})
        for name in ("rank", "targets", "experts"):
            if name in self.settings:
                after = replace(after, adapters=replace(after.adapters, **{name: self.settings[name]}))
        if not self.overrides:
            return graph, after
        plain = deepcopy(to_data(graph.architecture, defaults="keep"))
        for path, value in self.overrides.items():
            _put(plain, path.split("."), value)
        try:
            return resolve(from_plain(plain)), after
        except VitruviusError:
            return None


_FLAGS = {
    "attention": "attention",
    "loss": "loss",
    "checkpointing": "checkpointing",
    "cache": "cache-dtype",
    "batch": "batch",
    "accumulate": "accumulate",
    "optimizer": "optimizer",
    "weights": "dtype",
    "mode": "mode",
    "rank": "rank",
    "targets": "targets",
    "experts": "experts",
    "context": "context",
    "count": "count",
}


def candidates(graph: Graph, workload: Workload) -> list[list[Candidate]]:
    """Families of changes, the smallest first; how far to go in batch and context is for the caller to find."""
    families = [list(_exact(workload))]
    if workload.mode == "inference":
        families += [list(_caches(workload)), list(_formats(workload))]
    else:
        families += [list(_checkpointing(workload)), list(_optimizers(workload)), list(_modes(graph, workload))]
        families += _smaller_adapters(graph, workload)
    families += [list(_kv_heads(graph)), list(_windows(graph, workload))]
    return [family for family in families if family]


# ----------------------------------------------------------------------------------------------------------------------
# What leaves results as they are


def _exact(workload: Workload) -> Iterator[Candidate]:
    if workload.attention == "full":
        what = "attend block by block, without the matrix of scores"
        yield Candidate(family="attention", what=what, settings={"attention": "auto"})
    if workload.mode != "inference" and workload.loss == "whole":
        what = "make logits a few at a time"
        yield Candidate(family="loss", what=what, settings={"loss": "chunked"})


def _checkpointing(workload: Workload) -> Iterator[Candidate]:
    if workload.checkpointing == "none":
        what = "keep only the stream between layers and compute each layer again"
        yield Candidate(
            family="checkpointing", what=what, costs="a third more compute", settings={"checkpointing": "layers"}
        )


def smaller_batch(workload: Workload, most: int) -> Candidate | None:
    """As many sequences at once as fit; training sums the gradients of several micro-batches instead."""
    if not 1 <= most < workload.batch:
        return None
    if workload.mode == "inference":
        what, costs = f"{most:,} sequence{'s' if most > 1 else ''} at a time", "less throughput"
        return Candidate(family="batch", what=what, costs=costs, settings={"batch": most})
    even = max(size for size in range(1, min(most, 4096) + 1) if workload.batch % size == 0)
    times = workload.batch // even * workload.accumulate
    what = f"micro-batches of {even:,}, {times:,} to an update"
    costs = "sums of gradients in fp32"
    return Candidate(family="batch", what=what, costs=costs, settings={"batch": even, "accumulate": times})


# ----------------------------------------------------------------------------------------------------------------------
# How it is stored and trained


def _caches(workload: Workload) -> Iterator[Candidate]:
    if cache_format(workload) in {"fp32", "fp64"}:
        yield Candidate(family="cache", what="keys and values in bf16", settings={"cache": "bf16"})


_SMALLER = (
    ("bf16", 16, "no loss to speak of"),
    ("int8", 8, "little quality: measure it"),
    ("nf4", 4, "some quality: measure it"),
)


def _formats(workload: Workload) -> Iterator[Candidate]:
    bits = weight_format(workload.weights).bits
    for name, its, costs in _SMALLER:
        if its < bits:
            yield Candidate(family="weights", what=f"weights in {name}", costs=costs, settings={"weights": name})


def _optimizers(workload: Workload) -> Iterator[Candidate]:
    order = ("adamw", "adamw-8bit", "muon", "adamw-bf16")
    costs = {"adamw-8bit": "moments in 8 bits", "muon": "another optimizer", "adamw-bf16": "no fp32 masters"}
    start = order.index(workload.optimizer) if workload.optimizer in order else 0
    for name in ("adamw-8bit", "adamw-bf16"):
        if order.index(name) > start:
            settings = {"optimizer": name}
            yield Candidate(family="optimizer", what=f"optimizer {name}", costs=costs[name], settings=settings)


def _modes(graph: Graph, workload: Workload) -> Iterator[Candidate]:
    if workload.mode == "train":
        what = f"train adapters of rank {workload.adapters.rank} and freeze the rest"
        yield Candidate(
            family="mode", what=what, costs="for a model that is trained already", settings={"mode": "lora"}
        )
    if workload.mode in {"train", "lora"}:
        what = "adapters over weights in nf4"
        settings = {"mode": "qlora", "weights": "nf4"}
        yield Candidate(family="mode", what=what, costs="for a model that is trained already", settings=settings)
    elif workload.mode == "qlora" and weight_format(workload.weights).bits > 4:
        yield Candidate(family="mode", what="weights in nf4", costs="some quality", settings={"weights": "nf4"})
    del graph


def _smaller_adapters(graph: Graph, workload: Workload) -> Iterator[list[Candidate]]:
    if workload.mode not in {"lora", "qlora"}:
        return
    stacked = any(len(tensor.shape) > 2 for tensor in graph.tensors().values())
    if stacked and workload.adapters.experts == "each":
        what = "no adapters on experts"
        yield [Candidate(family="experts", what=what, costs="experts stay as they are", settings={"experts": "none"})]
    ranks = [rank for rank in (workload.adapters.rank // by for by in (2, 4, 8)) if rank >= 4]
    if ranks:
        less = "less capacity"
        yield [
            Candidate(family="rank", what=f"adapters of rank {rank}", costs=less, settings={"rank": rank})
            for rank in ranks
        ]
    if workload.adapters.targets == "linear":
        what = "adapters on attention alone"
        yield [Candidate(family="targets", what=what, costs="less capacity", settings={"targets": "attention"})]


# ----------------------------------------------------------------------------------------------------------------------
# The model


def _mixers(graph: Graph) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, plain data) of each block's mixer that keeps keys."""
    plain = to_data(graph.architecture, defaults="keep")
    for name, block in plain["blocks"].items():
        mixer = block.get("mixer")
        if isinstance(mixer, dict) and "sees" in mixer:
            yield f"blocks.{name}.mixer", cast("dict[str, Any]", mixer)


def _kv_heads(graph: Graph) -> Iterator[Candidate]:
    """Key and value heads halved, in all blocks that have them, until one is left."""
    heads = {path: mixer["kv_heads"] or mixer["heads"] for path, mixer in _mixers(graph) if "kv_heads" in mixer}
    divisor = 2
    while heads and any(count % divisor == 0 for count in heads.values()):
        fewer = {f"{path}.kv_heads": count // divisor for path, count in heads.items() if count % divisor == 0}
        shown = " or ".join(f"{count:,}" for count in sorted(set(fewer.values())))
        what = f"{shown} key and value head{'s' if shown != '1' else ''}"
        costs = "another model, the worse the fewer"
        yield Candidate(family="kv-heads", what=what, costs=costs, overrides=fewer)
        divisor *= 2


def _windows(graph: Graph, workload: Workload) -> Iterator[Candidate]:
    """A window on layers that see everything before them."""
    full = [path for path, mixer in _mixers(graph) if str(mixer["sees"]).strip() == "causal"]
    below = min(context_of(graph, workload), graph.scope.context)  # a window as long as the spec's context is none
    window = 1 << max(0, (below - 1).bit_length() - 1)
    while full and window >= SHORTEST_WINDOW:
        what = f"a window of {window:,} tokens on layers that see all before them"
        costs = "another model: what lies further back is out of sight"
        overrides = {f"{path}.sees": f"causal & sliding({window})" for path in full}
        yield Candidate(family="window", what=what, costs=costs, overrides=overrides)
        window //= 2


def shorter_context(graph: Graph, workload: Workload, most: int) -> Candidate | None:
    """As many tokens as fit, rounded down to something one remembers."""
    if not 1 <= most < context_of(graph, workload):
        return None
    unit = 1024 if most >= 8192 else 64 if most >= 512 else 1
    most -= most % unit
    what = f"sequences of {most:,} tokens"
    return Candidate(family="context", what=what, costs="shorter sequences", settings={"context": most})


def more_devices(count: int) -> Candidate:
    """As many devices as hold it together."""
    costs = "communication: `vitruvius plan` counts it"
    return Candidate(family="devices", what=f"{count:,} devices that share it", costs=costs, settings={"count": count})


# ----------------------------------------------------------------------------------------------------------------------


def _as_written(path: str) -> str:
    """The path in the file: blocks that `each` made one of, `full-1`, stand there as `full`."""
    return re.sub(r"^(blocks\.[^.]+?)-\d+\.", r"\1.", path)


def _put(plain: dict[str, Any], keys: list[str], value: object) -> None:
    node = plain
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
