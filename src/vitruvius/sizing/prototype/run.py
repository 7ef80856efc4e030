"""The run that trains a prototype: every number with the rule that it follows from."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from vitruvius.sizing.laws import DEFAULT
from vitruvius.sizing.parameters import count_parameters
from vitruvius.spec.parametrisations import WidthParametrisation
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

_LR, _LR_WIDTH = 3e-3, 128
_MICRO_TOKENS = 16_384
"""Tokens of one piece of a batch, about as many as 16 GB hold for a prototype."""
_SMALLEST_BATCH, _LARGEST_BATCH = 1, 4096
_LONGEST_WARMUP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeRun:
    """Settings of a training run, in the words of `vitruvius train`."""

    context: int
    batch: int
    """Sequences of one step."""
    accumulate: int
    steps: int
    warmup: int
    lr: float
    schedule: str
    tokens_per_step: int
    tokens: int
    tokens_per_parameter: float
    rules: tuple[str, ...]
    """Where each number comes from."""

    def to_yaml(self, *, spec: str, name: str, data: str | None) -> str:
        """The run file that `vitruvius train` reads; without data, the folder is left to `--data`."""
        comments = "".join(f"# {rule}\n" for rule in self.rules)
        lines = [
            f"# Trains the prototype {name}: vitruvius train RUN.yaml" + ("" if data else " --data DIR"),
            f"{comments}spec: {_quoted(spec)}",
            *([f"data: {_quoted(data)}"] if data else []),
            f"out: {_quoted(f'runs/{name}')}",
            "train:",
            f"  context: {self.context}",
            f"  batch: {self.batch}",
            f"  accumulate: {self.accumulate}",
            f"  steps: {self.steps}",
            f"  warmup: {self.warmup}",
            f"  lr: {self.lr!r}",
            f"  schedule: {self.schedule}",
            "  min_lr: 0.1",
        ]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def run_of(graph: Graph) -> PrototypeRun:
    """The run for a prototype: tokens by the scaling law, batch by DeepSeek's rule, learning rate by width."""
    architecture = graph.architecture
    counts = count_parameters(graph)
    optimal = DEFAULT.best_tokens(counts.active)
    flops = 6 * counts.active * optimal
    wanted = 0.2920 * flops**0.3271
    context = architecture.context
    batch = 1
    while batch < _LARGEST_BATCH and 2 * batch * context <= wanted * sqrt(2):
        batch *= 2
    batch = max(_SMALLEST_BATCH, batch)
    micro = max(1, _MICRO_TOKENS // context)
    accumulate = max(1, batch // micro)
    steps = max(1, round(optimal / (batch * context)))
    lr, lr_rule = _learning_rate(graph)
    tokens = steps * batch * context
    return PrototypeRun(
        context=context,
        batch=batch,
        accumulate=accumulate,
        steps=steps,
        warmup=min(_LONGEST_WARMUP, max(1, steps // 20)) if steps > 1 else 0,
        lr=lr,
        schedule="cosine",
        tokens_per_step=batch * context,
        tokens=tokens,
        tokens_per_parameter=tokens / counts.active,
        rules=(
            (
                f"tokens: {format_count(tokens)}, {tokens / counts.active:.3g} for each of "
                f"{format_count(counts.active)} active parameters, where the law {DEFAULT.name} makes the model "
                "the best use of its FLOPs"
            ),
            (
                f"batch: {batch * context:,} tokens a step, the power of two of sequences nearest to {wanted:,.0f} = "
                f"0.292 x C^0.3271 with C = 6 N D = {flops:.3g} (DeepSeek LLM, 2024)"
            ),
            lr_rule,
            "schedule: cosine to a tenth, warm-up a twentieth of the steps",
        ),
    )


def _learning_rate(graph: Graph) -> tuple[float, str]:
    """The rule of the spec's initialisation: muP finds it at its base width, others fall as 1 / width."""
    init, width = graph.architecture.init, graph.scope.width
    carried = isinstance(init, WidthParametrisation)
    at = init.base_width if isinstance(init, WidthParametrisation) else width
    lr = float(f"{_LR * _LR_WIDTH / at:.3g}")
    rule = f"lr: {lr:g} = {_LR:g} x {_LR_WIDTH} / {at:,}, as Adam's steps on hidden maps must fall with the width"
    if carried:
        return lr, f"{rule}; at {init.kind}'s base width, so that the same number holds at full size"
    return lr, f"{rule} (Yang et al., 2022); at full width it is another one, as {init.kind} carries none across"
