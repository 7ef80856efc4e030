"""The receptive field, measured by gradient and held against what the layers promise together."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.outcome import Measure, failed, passed
from vitruvius.checks.promise import Promises, promised, receptive_field
from vitruvius.units import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

SHARE = 0.95
"""Share of the gradient that the effective field holds."""
_QUERIES = 10
_ROUNDING = 1e-12
"""A gradient this small beside a query's largest may be what rounding leaves of zero, where sums over all tokens before
are subtracted from each other; elsewhere zero is zero."""
_FLAT = 1e-3
"""What scores are multiplied by where only zero or not zero matters: sharp ones round a weight to nothing."""


def receptive(subject: Subject) -> Measure:
    """The logits depend on exactly the embeddings that the layers' patterns compose to, by gradient."""
    length = subject.length
    queries = spread(length, _QUERIES)
    promises = promised(subject.graph, length, queries)
    found = _influences(subject.model, subject, queries)
    wrong = _held(found, promises, queries)
    if wrong and "does not depend" in wrong:
        wrong = _held(_influences(_flattened(subject.model), subject, queries), promises, queries)
    field, context = receptive_field(subject.full_graph), subject.architecture.context
    last = found[0][-1]
    effective, reach = effective_field(last, at=queries[-1])
    values = {
        "queries": queries,
        "positions": [int(row.sum()) for row in promises.text.may_QT],
        "bound_at_full_size": field,
        "effective_positions": effective,
        "effective_distance": reach,
        "share": SHARE,
        "gradient_by_distance": _by_distance(last, queries[-1]) if subject.probed.head.causal else None,
    }
    if wrong:
        return failed(wrong, values=values)
    detail = (
        f"{len(queries)} outputs depend on exactly the embeddings that the patterns lead to; at full size on "
        f"{exact(field)} of {exact(context)} tokens at most; {SHARE:.0%} of the last one's gradient lies on "
        f"{effective} of {int(last.numel())} positions"
    )
    return passed(detail, values=values)


def spread(length: int, most: int) -> list[int]:
    """Up to `most` positions from the first to the last, evenly apart."""
    return sorted({round(i * (length - 1) / max(1, most - 1)) for i in range(most)})


# ----------------------------------------------------------------------------------------------------------------------
# The measurement, of anything that maps embeddings to logits


def influence(logits_of: Callable[[], Tensor], embedded: Sequence[Tensor], queries: Sequence[int]) -> list[Tensor]:
    """How strongly the logits at each query depend on each embedding: norms of gradients, [Q, S] for each input.

    `logits_of` computes logits [Q, T, V] of Q equal rows; `embedded` are the leaves it has made by then, [Q, S, D].
    Row q is read at `queries[q]` alone, so that one backward pass gives the gradients of all queries. A random
    direction in the logits stands for all of them: it misses a dependence with probability zero.
    """
    logits_QTV = logits_of()
    index = torch.arange(len(queries), device=logits_QTV.device)
    read_QV = logits_QTV[index, torch.tensor(list(queries), device=logits_QTV.device)]
    generator = torch.Generator().manual_seed(0)
    direction_V = torch.randn(read_QV.shape[-1], generator=generator, dtype=torch.float64).to(read_QV)
    gradients = torch.autograd.grad((read_QV * direction_V).sum(), list(embedded), allow_unused=True)
    return [
        torch.zeros(leaf.shape[:2]) if gradient is None else gradient.detach().norm(dim=-1).cpu()
        for leaf, gradient in zip(embedded, gradients, strict=True)
    ]


def effective_field(norms_S: Tensor, *, at: int, share: float = SHARE) -> tuple[int, int]:
    """(positions, distance): the fewest positions that hold a share of the gradient, and how far the farthest lies."""
    order = norms_S.argsort(descending=True)
    sums = norms_S[order].cumsum(0)
    if not sums[-1] > 0:
        return 0, 0
    count = min(int((sums < share * sums[-1]).sum()) + 1, len(order))
    return count, int((order[:count] - at).abs().max())


def _by_distance(norms_S: Tensor, at: int) -> list[float]:
    """Share of the gradient at each distance back from the query, from its own position on."""
    back = norms_S[: at + 1].flip(0)
    return (back / back.sum().clamp_min(1e-300)).tolist()


# ----------------------------------------------------------------------------------------------------------------------
# Our own models


def _influences(model: Model, subject: Subject, queries: Sequence[int]) -> list[Tensor]:
    """[Q, T] for the text, and [Q, S] for the source where there is an encoder."""
    tokens = subject.tokens(1, subject.length, salt=20).expand(len(queries), -1)
    options: dict[str, Any] = {}
    if model.standing_source is not None:
        options["source"] = model.standing_source.expand(len(queries), -1)
    leaves: list[Tensor] = []

    def cut(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = model.embedding.register_forward_hook(cut)
    try:
        found = influence(lambda: model(tokens, **options), leaves, queries)
    finally:
        handle.remove()
    return found[::-1]  # the source is embedded first


def _flattened(model: Model) -> Model:
    model = deepcopy(model)
    for module in model.modules():
        scale = getattr(module, "scale", None)
        if isinstance(scale, float) and hasattr(module, "pattern"):
            vars(module)["scale"] = scale * _FLAT
    return model


def _held(found: Sequence[Tensor], promises: Promises, queries: Sequence[int]) -> str:
    """The first pair that breaks the promise, in words; the empty text when none does."""
    both = ((promises.text, "embedding"), (promises.source, "source embedding"))
    for norms_QT, (promise, what) in zip(found, both, strict=False):
        if promise is None:
            continue
        if not norms_QT.isfinite().all():
            return f"the gradient of the {what}s is not finite"
        nothing_Q1 = norms_QT.amax(dim=1, keepdim=True) * (_ROUNDING if promises.sums else 0.0)
        for wrong_QT, says in (
            ((norms_QT > nothing_Q1) & ~promise.may_QT, f"depends on the {what} at {{}}, which no pattern leads to"),
            (promise.must_QT & ~(norms_QT > 0), f"does not depend on the {what} at {{}}, which the patterns lead to"),
        ):
            if wrong_QT.any():
                row, key = (int(i) for i in wrong_QT.nonzero()[0])
                count = int(wrong_QT.sum())
                return f"the output at {queries[row]} {says.format(key)} ({count} pairs)"
    return ""
