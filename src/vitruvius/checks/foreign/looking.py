"""Probes of foreign models: where attention looks, and how far back the logits depend on the text."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitruvius.checks.attention import FIRST, SATURATED, heads_of
from vitruvius.checks.compare import gap, worst_in, worst_of
from vitruvius.checks.foreign.precision import lifted
from vitruvius.checks.outcome import Measure, by_layer, does_not_apply, failed, passed, within
from vitruvius.checks.receptive import SHARE, effective_field, influence, spread

if TYPE_CHECKING:
    from vitruvius.checks.attention import Head
    from vitruvius.checks.foreign.adapter import Foreign

_QUERIES = 6
_ROWS = 3
_SHOWN = 3


# ----------------------------------------------------------------------------------------------------------------------
# Attention weights


@torch.no_grad()
def attention_distribution(subject: Foreign) -> Measure:
    """Attention weights, where the model gives them, are none of the future's, sum to one, and look around."""
    if not subject.call.accepts("output_attentions") and not hasattr(subject.given, "set_attn_implementation"):
        return does_not_apply("forward gives no attention weights (no output_attentions)")
    model, tokens = _readable(subject), subject.tokens(_ROWS, subject.length, salt=30)
    try:
        with lifted(subject.precision):
            output = subject.forward(model, tokens, output_attentions=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        return does_not_apply(f"output_attentions is refused: {str(error)[:100]}")
    weights = _weights(output, tokens)
    if not weights:
        return does_not_apply("output_attentions gives no weights [batch, heads, query, key]")
    return _judged(subject, weights)


def _readable(subject: Foreign) -> nn.Module:
    """A copy that forms its attention weights: Hugging Face's classes with the `eager` implementation."""
    model = subject.exact()
    return _with_eager(model) or model


def _with_eager(model: Any) -> nn.Module | None:
    """The same model made with attention written out; None where it is already, or has no other one.

    Made anew, since some classes choose their attention when they are made, whatever is set afterwards.
    """
    config = getattr(model, "config", None)
    make = getattr(type(model), "_from_config", None)
    if make is None or getattr(config, "_attn_implementation", "eager") == "eager":
        return None
    try:
        other = make(deepcopy(config), attn_implementation="eager", dtype=next(model.parameters()).dtype)
        other.load_state_dict(model.state_dict())
        made = dict(other.named_buffers())  # those that are not saved were rounded when the model was made
        for name, buffer in model.named_buffers():
            made[name].copy_(buffer)
    except Exception:  # noqa: BLE001 (a class without such an attention refuses in its own way)
        return None
    return other.to(next(model.parameters()).device).eval()


def backends(subject: Foreign) -> Measure:
    """The attention that the config chooses equals the one that is written out, forward and backward."""
    model = subject.exact()
    other = _with_eager(model)
    if other is None:
        return does_not_apply("one way only to compute attention")
    tokens = subject.tokens(2, subject.length, salt=31)
    found, gradients = _graded(subject, model, tokens)
    expected, expected_gradients = _graded(subject, other, tokens)
    worst = {"forward": gap(found, expected)}
    for name, gradient in expected_gradients.items():
        worst[f"gradient of {name}"] = gap(gradients[name], gradient) if name in gradients else float("inf")
    where, most = worst_in(worst)
    bound = subject.precision.bound
    chosen = str(getattr(model.config, "_attn_implementation", "it"))
    detail = f"{chosen} against eager: forward and {len(expected_gradients)} gradients"
    return within(most, bound, detail if most <= bound else f"{chosen} differs from eager: {where}")


def _graded(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of a sum in which each has its own weight."""
    with lifted(subject.precision), torch.enable_grad():
        logits = subject.own_logits(model, tokens_BT)
        if logits.requires_grad:
            weights = torch.linspace(-1, 1, logits[0].numel(), dtype=torch.float64).to(logits)
            (logits.flatten(1) * weights).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _weights(output: object, tokens_BT: Tensor) -> list[Tensor]:
    """Weights of self-attention by layer, in the order of the layers."""
    for name in ("decoder_attentions", "attentions"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(found, tuple | list):
            batch, time = tokens_BT.shape
            return [w for w in found if isinstance(w, Tensor) and w.dim() == 4 and w.shape[::2] == (batch, time)]
    return []


def _judged(subject: Foreign, weights: list[Tensor]) -> Measure:
    time, bound = subject.length, max(subject.precision.bound, 1e-9)
    place = torch.arange(time)
    future = place > place.unsqueeze(1)
    found: dict[str, list[Head]] = {}
    for index, weights_BHTS in enumerate(weights):
        if weights_BHTS.shape[-1] != time:
            continue
        seen = (weights_BHTS != 0).any(dim=0).any(dim=0).cpu()
        if subject.facts.causal and bool((seen & future).any()):
            query, key = (int(i) for i in (seen & future).nonzero()[0])
            return failed(f"layer {index}: query {query} gives weight to the later key {key}")
        sums = weights_BHTS.sum(dim=-1)
        if not float((sums - 1).max()) <= bound:
            return failed(f"layer {index}: weights of a query sum to {float(sums.max()):g}", bound=bound)
        heads = heads_of(weights_BHTS, seen if not subject.facts.causal else seen & ~future)
        if heads:
            found[f"layer {index}"] = heads
    if not found:
        return does_not_apply("no query sees more than one key")
    every = [head for heads in found.values() for head in heads]
    names = [f"{layer} head {i}" for layer, heads in found.items() for i in range(len(heads))]
    sharp = [name for name, head in zip(names, every, strict=True) if head.entropy < SATURATED]
    ratios = [head.entropy for head in every]
    first = sum(head.first for head in every) / len(every)
    series = {
        name: [sum(getattr(head, name) for head in heads) / len(heads) for heads in found.values()]
        for name in ("entropy", "distance", "uniform_distance", "first", "uniform_first", "sink")
    }
    detail = (
        f"{len(every)} heads: entropy {min(ratios):.0%} to {max(ratios):.0%} of uniform, {first:.0%} of the weight on "
        f"the first {FIRST} tokens"
    )
    short = worst_of(head.sink for head in every)
    detail += f", up to {short:.0%} on no key" if short > bound else "; rows sum to one"
    more = f" and {len(sharp) - _SHOWN} more" if len(sharp) > _SHOWN else ""
    warning = f"looks at one key alone: {', '.join(sharp[:_SHOWN])}{more}" if sharp else ""
    heads = {name: [asdict(head) for head in of_layer] for name, of_layer in found.items()}
    return passed(detail, warning=warning, values=by_layer(list(found), series, heads=heads))


# ----------------------------------------------------------------------------------------------------------------------
# The receptive field


def receptive_field(subject: Foreign) -> Measure:
    """Gradients reach the embeddings of earlier tokens and of the token itself, and of none that come later."""
    model, length = subject.exact(), subject.length
    tables = embeddings_of(model)
    if not tables:
        return does_not_apply("no embedding module whose output could be differentiated")
    queries = spread(length, _QUERIES)
    tokens = subject.tokens(1, length, salt=20).expand(len(queries), -1)
    leaves: list[Tensor] = []

    def cut(_module: object, _inputs: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.shape[:2] != tokens.shape:
            return output
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # some models go on in place, which a leaf refuses

    def logits() -> Tensor:
        found = subject.logits(model, tokens)
        if not leaves or not found.requires_grad:
            raise _NoGradientError
        return found

    handles = [table.register_forward_hook(cut) for table in tables]
    try:
        with lifted(subject.precision):
            norms_QS = sum(influence(logits, leaves, queries))
    except _NoGradientError:
        return does_not_apply("the logits have no gradient with respect to the embeddings")
    finally:
        for handle in handles:
            handle.remove()
    assert isinstance(norms_QS, Tensor)
    return _field(subject, norms_QS, queries)


class _NoGradientError(Exception):
    """Nothing to differentiate."""


def embeddings_of(model: nn.Module) -> list[nn.Module]:
    """The modules that turn token ids into vectors: the first table of all, under each of its names."""
    get = getattr(model, "get_input_embeddings", None)
    found: object = None
    if get is not None:
        with suppress(NotImplementedError, AttributeError):
            found = get()
    if not isinstance(found, nn.Module):
        found = next((part for part in model.modules() if isinstance(part, nn.Embedding)), None)
    if found is None:
        return []
    weight = getattr(found, "weight", None)
    return [
        part
        for part in model.modules()
        if part is found or (isinstance(part, nn.Embedding) and weight is not None and part.weight is weight)
    ]


def _field(subject: Foreign, norms_QS: Tensor, queries: list[int]) -> Measure:
    if not norms_QS.isfinite().all():
        return failed("the gradient of the embeddings is not finite")
    seen, place = norms_QS > 0, torch.arange(norms_QS.shape[1])
    at = torch.tensor(queries).unsqueeze(1)
    later = seen & (place > at)
    if subject.facts.causal and later.any():
        row, key = (int(i) for i in later.nonzero()[0])
        return failed(f"the output at {queries[row]} depends on the later embedding at {key}")
    own = seen.gather(1, at).squeeze(1)
    if not own.all():
        query = queries[int((~own).nonzero()[0])]
        return failed(f"the output at {query} does not depend on its own embedding")
    back = [int(query - place[row].min()) for query, row in zip(queries, seen, strict=True)]
    count, distance = effective_field(norms_QS[-1], at=queries[-1])
    values: dict[str, Any] = {
        "queries": queries,
        "positions": [int(row.sum()) for row in seen],
        "farthest_back": back,
        "effective_positions": count,
        "effective_distance": distance,
        "share": SHARE,
    }
    window = f", the {max(back) + 1} last tokens" if max(back) < queries[-1] else ", the first token included"
    detail = (
        f"the last of {norms_QS.shape[1]} outputs depends on {int(seen[-1].sum())} embeddings{window}; {SHARE:.0%} of "
        f"the gradient lies on {count} of them"
    )
    return passed(detail, values=values)
