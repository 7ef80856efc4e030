"""What a run will cost, before it is started: the resolved settings and the bill. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data import read_index
from vitruvius.sizing import size
from vitruvius.spec import resolve
from vitruvius.spec.widen import weights
from vitruvius.training.config import to_plain
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.request import Request

PLAN_SCHEMA = "vitruvius.train-plan/1"
BYTES_PER_WEIGHT = {"bf16": 2 + 2 + 4 + 4 + 4, "fp32": 4 + 4 + 4 + 4}
"""Weight, gradient, fp32 master (fp32 weights are their own) and AdamW's two fp32 moments."""
MOMENT_BYTES = 4
"""What Muon saves for each weight in a matrix: it keeps one moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run on paper."""

    name: str
    data: str
    out: str
    config: TrainConfig
    parameters_total: int
    parameters_active: int
    data_tokens: int
    """Tokens of the training split."""
    tokens_per_step: int
    tokens: int
    """Tokens of the whole run."""
    epochs: float
    """How often the run sees the data."""
    flops: float
    """Useful floating-point operations of the whole run, forward and backward, without validation."""
    weights_and_optimizer_bytes: int
    """Weights, gradients, masters and moments; activations come on top."""

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable plan, schema `vitruvius.train-plan/1`."""
        return {
            "schema": PLAN_SCHEMA,
            "name": self.name,
            "data": self.data,
            "out": self.out,
            "train": to_plain(self.config),
            "parameters": {"total": self.parameters_total, "active": self.parameters_active},
            "data_tokens": self.data_tokens,
            "tokens_per_step": self.tokens_per_step,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "flops": self.flops,
            "memory": {"weights_and_optimizer_bytes": self.weights_and_optimizer_bytes, "activations_bytes": None},
        }

    def to_text(self) -> str:
        """The plan for people."""
        lines = [
            f"{self.name} on {self.data} into {self.out}",
            f"  parameters   {self.parameters_total:,} total, {self.parameters_active:,} active",
            f"  tokens       {self.tokens:,} ({self.tokens_per_step:,} a step, {self.config.steps:,} steps)",
            f"  data         {self.data_tokens:,} tokens, seen {self.epochs:.2f} times",
            f"  compute      {format_count(self.flops)}FLOP, validation not counted",
            f"  memory       {format_bytes(self.weights_and_optimizer_bytes)} (weights, optimizer), activations apart",
            "  train:",
        ]
        return "\n".join(lines + [f"    {name}: {_yaml(value)}" for name, value in to_plain(self.config).items()])


def plan(request: Request) -> Plan:
    """What a request will cost.

    Raises DataError when the data folder is none.
    """
    architecture, config = request.reading.architecture, request.config
    assert config.context is not None
    bill = size(architecture, context=config.context, mode="train", dtype=config.dtype)
    data_tokens: int = read_index(request.data)["splits"]["train"]["tokens"]
    per_step = config.batch * config.context
    tokens = per_step * config.steps
    return Plan(
        name=architecture.name,
        data=str(request.data),
        out=str(request.out),
        config=config,
        parameters_total=bill.parameters.total,
        parameters_active=bill.parameters.active,
        data_tokens=data_tokens,
        tokens_per_step=per_step,
        tokens=tokens,
        epochs=tokens / max(1, data_tokens),
        flops=bill.train_flops_per_token * tokens,
        weights_and_optimizer_bytes=bill.parameters.total * BYTES_PER_WEIGHT[config.dtype] - _saved(request),
    )


def _saved(request: Request) -> int:
    if request.config.optimizer != "muon":
        return 0
    placed = weights(resolve(request.reading.architecture)).values()
    return MOMENT_BYTES * sum(weight.tensor.count for weight in placed if weight.is_hidden_matrix)


def _yaml(value: object) -> str:
    return "null" if value is None else str(value)
