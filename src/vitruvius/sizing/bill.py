"""The bill of an architecture at work: parameters, memory, FLOPs, and whether it fits devices and how fast it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.sizing.claims import Verdict, judge
from vitruvius.sizing.memory import Memory, cache_format, context_of, memory_of, state_tensor_bytes
from vitruvius.sizing.parameters import Parameters, count_parameters
from vitruvius.sizing.workloads import check, workload_of
from vitruvius.spec.rules import ensure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.on_devices import DeviceBill
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

SCHEMA = "vitruvius.size/1"
MOST_DEVICES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBill:
    """What the layers of one block cost."""

    name: str
    """Block name."""
    layers: int
    """How many layers use it."""
    parameters: int
    """Of one such layer."""
    active: int
    """Of one such layer, per token."""
    kv_cache_bytes: int
    """Of one such layer; 0 while training."""
    state_bytes: int
    """Of one such layer; 0 while training."""
    useful_flops: int
    """Of one such layer, forward over the whole context, one sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What an architecture costs for one workload."""

    name: str
    context: int
    workload: Workload
    parameters: Parameters
    memory: Memory
    adapter_parameters: int
    """Of low-rank adapters, in the modes lora and qlora."""
    forward_flops: int
    """Useful FLOPs of a forward pass over one sequence of `context` tokens; in training with multi-token prediction."""
    train_flops: int
    """Useful FLOPs of one sequence forward and backward, as the mode trains; of a full training step in inference."""
    dense_flops: int
    """`forward_flops` with every query-key pair counted."""
    flops_error: int
    """How far `forward_flops` may be off: above 0 only for own patterns too irregular to be counted."""
    layers: tuple[LayerBill, ...]
    claims: tuple[Verdict, ...]
    on: tuple[DeviceBill, ...] = ()
    """Devices, in the order in which they were asked for."""

    @property
    def batch(self) -> int:
        """Sequences at a time."""
        return self.workload.batch

    @property
    def dtype(self) -> str:
        """Format of the weights."""
        return self.workload.weights

    @property
    def mode(self) -> str:
        """What the model does."""
        return self.workload.mode

    @property
    def weights_bytes(self) -> int:
        """Of all parameters, as they are stored."""
        return self.memory.weights

    @property
    def kv_cache_bytes(self) -> int:
        """Keys and values for `batch` sequences of `context` tokens; 0 while training."""
        return self.memory.kv_cache

    @property
    def state_bytes(self) -> int:
        """Recurrent state, one size however long the sequences; 0 while training."""
        return self.memory.state

    @property
    def forward_flops_per_token(self) -> float:
        """Useful FLOPs of one token, averaged over the context."""
        return self.forward_flops / self.context

    @property
    def train_flops_per_token(self) -> float:
        """Forward and backward; the backward pass costs twice the forward, less for frozen maps."""
        return self.train_flops / self.context

    @property
    def fits(self) -> bool | None:
        """Whether it fits the first device; None without one."""
        return self.on[0].fit.fits if self.on else None

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.size/1`; what was not asked for is None."""
        workload = self.workload
        first = self.on[0].to_dict()["decode"] if self.on else None
        return {
            "schema": SCHEMA,
            "name": self.name,
            "context": self.context,
            "batch": self.batch,
            "dtype": self.dtype,
            "mode": self.mode,
            "workload": {
                "cache_dtype": cache_format(workload),
                "optimizer": workload.optimizer,
                "checkpointing": workload.checkpointing,
                "loss": workload.loss,
                "attention": workload.attention,
                "accumulate": workload.accumulate,
                "adapters": {**asdict(workload.adapters), "parameters": self.adapter_parameters},
            },
            "parameters": asdict(self.parameters),
            "memory": self.memory.to_dict(),
            "flops": {
                "forward_per_token": self.forward_flops_per_token,
                "train_per_token": self.train_flops_per_token,
                "dense_forward_per_token": self.dense_flops / self.context,
                "forward_per_token_error": self.flops_error / self.context,
            },
            "fits": self.fits,
            "decode": first or dict.fromkeys(DECODE_KEYS),
            "on": [device.to_dict() for device in self.on],
            "layers": [asdict(layer) for layer in self.layers],
            "claims": [asdict(claim) for claim in self.claims],
        }


DECODE_KEYS = (
    "tokens_per_second_bound",
    "tokens_per_second_expected",
    "seconds_bound",
    "bytes_per_step",
    "bytes_per_step_error",
    "bound_by",
)


def size(
    architecture: Architecture,
    workload: Workload | None = None,
    *,
    on: str | Device | Sequence[str | Device] = (),
    count: int = 1,
    context: int | None = None,
    batch: int | None = None,
    dtype: str | None = None,
    mode: str | None = None,
    **more: Any,
) -> Bill:
    """The bill of an architecture for a workload, or for one that keywords describe.

    on: devices of the catalogue by name, files, or `Device`s; `count` of each hold the model together. context in
    tokens, the architecture's own when not given. dtype: a weight format, bf16 when not given (nf4 in the mode qlora).
    more: other fields of a workload (`cache_dtype`, `optimizer`, `checkpointing`, `loss`, `attention`, `accumulate`)
    and of its adapters (`rank`, `targets`, `experts`).

    Raises SpecError when the architecture does not fit together, UsageError for numbers out of range.
    """
    graph = ensure(architecture)
    said = {"context": context, "batch": batch, "dtype": dtype, "mode": mode, **more}
    workload = workload_of(workload, said)
    check(workload, graph)
    devices = _devices(on, count)
    bill = _bill(graph, workload)
    if not devices:
        return bill
    from vitruvius.sizing.on_devices import bills_on

    return replace(bill, on=bills_on(graph, workload, bill.memory, devices, count))


def _devices(on: str | Device | Sequence[str | Device], count: int) -> list[Device]:
    if type(count) is not int or not 1 <= count <= MOST_DEVICES:
        raise UsageError(f"count={count!r} is out of range", fix=f"use a whole number from 1 to {MOST_DEVICES:,}")
    if isinstance(on, tuple | list) and not on:
        return []
    from vitruvius.sizing.hardware import Device, device_named

    named: Sequence[str | Device] = [on] if isinstance(on, str | Device) else on
    found: dict[str, Device] = {}
    for one in named:
        device = one if isinstance(one, Device) else device_named(str(one))
        if device.name in found:
            raise UsageError(
                f"{device.name} is named twice", fix="name each device once; --count says how many there are"
            )
        found[device.name] = device
    return list(found.values())


def _bill(graph: Graph, workload: Workload) -> Bill:
    tokens = context_of(graph, workload)
    cost = graph.flops(tokens)
    if workload.mode == "train":
        cost += graph.mtp_flops(tokens)
    adapted = workload.mode in {"lora", "qlora"}
    train, adapters = 3 * cost.useful, 0
    if adapted:
        from vitruvius.sizing.adapters import adapter_parameters
        from vitruvius.sizing.speed import train_flops

        train, adapters = round(sum(train_flops(graph, workload))), adapter_parameters(graph, workload.adapters)
    return Bill(
        name=graph.architecture.name,
        context=tokens,
        workload=workload,
        parameters=count_parameters(graph),
        memory=memory_of(graph, workload),
        adapter_parameters=adapters,
        forward_flops=cost.useful,
        train_flops=train,
        dense_flops=cost.dense,
        flops_error=cost.unsure,
        layers=_by_block(graph, tokens, workload),
        claims=tuple(judge(claim, graph) for claim in graph.architecture.claims),
    )


def _by_block(graph: Graph, tokens: int, workload: Workload) -> tuple[LayerBill, ...]:
    layers = [*graph.encoder, *graph.layers]
    states = graph.states(tokens)[: len(layers)]
    batch, dtype = (workload.batch if workload.mode == "inference" else 0), cache_format(workload)
    # Layers of one block differ in what they keep where others read the keys of some of them.
    counts = Counter((layer.name, layer.scope.readers) for layer in layers)
    rows: dict[object, LayerBill] = {}
    for layer, state in zip(layers, states, strict=True):
        key = (layer.name, layer.scope.readers)
        if key in rows:
            continue
        tensors = layer.tensors().values()
        kept = {
            role: batch * sum(state_tensor_bytes(spec, dtype) for spec in state.values() if spec.role == role)
            for role in ("keys", "state")
        }
        rows[key] = LayerBill(
            name=layer.name,
            layers=counts[key],
            parameters=sum(t.count for t in tensors),
            active=sum(t.active for t in tensors),
            kv_cache_bytes=kept["keys"],
            state_bytes=kept["state"],
            useful_flops=layer.flops(tokens).useful,
        )
    return tuple(rows.values())
