"""The probes that make sense for any function from token ids to logits."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from vitruvius.checks.causality import leak_of
from vitruvius.checks.compare import EXACT
from vitruvius.checks.foreign.behaviour import rows_alone
from vitruvius.checks.foreign.learning import first_loss
from vitruvius.checks.outcome import Measure, Report, does_not_apply, failed, within
from vitruvius.checks.table import judge, named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Logits = Callable[[Tensor], Tensor]


def check_callable(
    function: Logits, vocab_size: int, *, length: int = 64, seed: int = 0, only: Sequence[str] | None = None
) -> Report:
    """Probe any causal language model: ids [B, T] to logits [B, T, V], deterministic, in fp64 for the bounds to hold.

    Examines future leaks, batch invariance, gradients (of an `nn.Module`) and the loss at init. Raises UsageError for
    an unknown name in `only`.
    """
    tokens = torch.randint(vocab_size, (4, length), generator=torch.Generator().manual_seed(seed))
    probes: dict[str, Callable[[], Measure]] = {
        "future-leak": lambda: leak_of(function, tokens[0], vocab_size),
        "batch-invariance": lambda: _batch(function, tokens),
        "gradients": lambda: _gradients(function, tokens),
        "init-loss": lambda: _init_loss(function, tokens),
    }
    chosen = named(probes, only)
    outcomes = tuple(judge(name, probes[name], perf_counter) for name in chosen)
    return Report(subject=f"a function of token ids ({vocab_size:,} tokens)", seed=seed, checks=outcomes)


@torch.no_grad()
def _batch(function: Logits, tokens_BT: Tensor) -> Measure:
    return within(rows_alone(function, tokens_BT), EXACT, f"{tokens_BT.shape[0]} rows together and alone")


def _gradients(function: Logits, tokens_BT: Tensor) -> Measure:
    if not isinstance(function, nn.Module):
        return does_not_apply("a plain function has no parameters")
    function.zero_grad(set_to_none=True)
    F.cross_entropy(function(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    wrong = [
        name
        for name, parameter in function.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.abs().max() > 0
    ]
    function.zero_grad(set_to_none=True)
    if wrong:
        return failed(f"no finite, non-zero gradient: {', '.join(wrong[:4])}")
    return Measure(passed=True, detail=f"{sum(1 for _ in function.parameters())} tensors")


@torch.no_grad()
def _init_loss(function: Logits, tokens_BT: Tensor) -> Measure:
    return first_loss(function(tokens_BT))
