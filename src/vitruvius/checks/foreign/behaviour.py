"""Probes of foreign models: who sees whom, caches, batches, padding, packed documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from vitruvius.checks.causality import leak_of
from vitruvius.checks.compare import gap, worst_in, worst_of
from vitruvius.checks.foreign.adapter import RECURRENT
from vitruvius.checks.outcome import Measure, does_not_apply, failed, within

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitruvius.checks.foreign.adapter import Foreign

_CHUNK = 5
"""Tokens that go into a filled cache at once."""


def future_leak(subject: Foreign) -> Measure:
    """Changing a token changes no earlier logits, and does change its own."""
    if not subject.facts.causal:
        return does_not_apply("a masked language model or an encoder may see later tokens")
    if subject.ids.numel() < 2:
        return does_not_apply("a vocabulary of one token")
    model, generator = subject.exact(), torch.Generator().manual_seed(subject.seed)
    places = torch.randint(subject.ids.numel(), (subject.length,), generator=generator)

    def of_indices(indices_BT: Tensor) -> Tensor:
        return subject.logits(model, subject.ids[indices_BT.to(subject.device)])

    found = leak_of(of_indices, places, subject.ids.numel(), bound=subject.precision.bound)
    if found.passed or not _sees_everything(subject, model):
        return found
    hint = "; every position sees the last one: if it is meant to (an encoder), say so with causal=False"
    return failed(found.detail + hint, measured=found.measured, bound=found.bound)


@torch.no_grad()
def _sees_everything(subject: Foreign, model: nn.Module) -> bool:
    tokens = subject.tokens(1, subject.length)
    changed = tokens.clone()
    changed[0, -1] = subject.ids[(subject.ids == tokens[0, -1]).logical_not()][0]
    moved_T = (subject.logits(model, tokens) - subject.logits(model, changed))[0].abs().amax(dim=-1)
    return bool((moved_T > subject.precision.bound).all())


@torch.no_grad()
def batch_invariance(subject: Foreign) -> Measure:
    """A row's logits do not depend on its neighbours in the batch."""
    model, tokens = subject.exact(), subject.tokens(3, subject.length, salt=2)
    worst = rows_alone(lambda ids: subject.logits(model, ids), tokens)
    return within(worst, subject.precision.bound, f"3 rows of {subject.length} tokens together and alone")


def rows_alone(function: Any, tokens_BT: Tensor) -> float:
    """The largest gap between rows computed together and each alone."""
    together = function(tokens_BT)
    return worst_of(gap(together[row], function(tokens_BT[row : row + 1])[0]) for row in range(tokens_BT.shape[0]))


# ----------------------------------------------------------------------------------------------------------------------
# Caches


@torch.no_grad()
def cached_decode(subject: Foreign) -> Measure:
    """A prefill and then a token at a time, with the cache that comes back, gives the logits of one full pass."""
    name = subject.call.cache
    if name is None:
        return does_not_apply("forward takes neither past_key_values nor cache_params")
    if not subject.facts.causal:
        return does_not_apply("a model that sees later tokens has no decode cache")
    model, made = subject.exact(), ""
    try:
        ways = _ways(subject, model)
        if not worst_in(ways)[1] <= subject.cache_bound and (anew := subject.with_tables_anew(model)) is not None:
            # Two ways through a model may compute one constant, once kept in an fp32 buffer and once in fp64.
            again = _ways(subject, anew)
            if worst_in(again)[1] <= subject.cache_bound:
                ways, made = again, " (buffers made in fp64)"
    except _NoCacheError:
        return does_not_apply(f"forward takes {name} and gives none back")
    where, most = worst_in(ways)
    bound = subject.cache_bound
    inside = " (the cache holds fp32)" if bound > subject.precision.bound else made
    told = f"{subject.length} tokens: {', '.join(ways)}{inside}"
    return within(most, bound, told if most <= bound else f"{where}: differs from the full pass")


def _ways(subject: Foreign, model: nn.Module) -> dict[str, float]:
    """How far each way through a cache lies from one full pass."""
    tokens, length = subject.tokens(2, subject.length), subject.length
    full = subject.logits(model, tokens)
    first = max(1, length // 3)
    stepped = _decoded(subject, model, tokens, [first, *[1] * (length - first)])
    ways = {"a prefill, then one token at a time": gap(stepped, full)}
    ways["from the first token on"] = gap(_decoded(subject, model, tokens, [1] * length), full)
    if not getattr(subject.given, "_is_stateful", False):
        chunks = [first, *[_CHUNK] * ((length - first) // _CHUNK)]
        ways["several tokens at once"] = gap(_decoded(subject, model, tokens, chunks), full[:, : sum(chunks)])
    uneven = _uneven(subject, model)
    if uneven is not None:
        ways["rows of different lengths, padded on the left"] = uneven
    return ways


class _NoCacheError(Exception):
    """The forward pass returned no cache."""


def _decoded(subject: Foreign, model: nn.Module, tokens_BT: Tensor, chunks: list[int], **first: Any) -> Tensor:
    parts: list[Tensor] = []
    cache, start = None, 0
    for size in chunks:
        logits, cache = subject.cached(model, tokens_BT[:, start : start + size], cache, **first)
        if cache is None:
            raise _NoCacheError
        parts.append(logits)
        start += size
    return torch.cat(parts, dim=1)


def _uneven(subject: Foreign, model: nn.Module) -> float | None:
    """Two rows padded on the left, prefilled and stepped; None where the model cannot be padded on the left."""
    if subject.facts.encoder_decoder or _left(subject, model, subject.facts.pad_id or 0) > subject.precision.bound:
        return None
    length = subject.length
    short, first = max(1, length // 2), max(2, length * 2 // 3)
    tokens = subject.tokens(2, length, salt=9)
    alone = subject.logits(model, tokens[1:, :short])[0]
    full = subject.logits(model, tokens[:1])[0]
    tokens[1] = F.pad(tokens[1, :short], (length - short, 0), value=subject.facts.pad_id or 0)
    mask = torch.ones_like(tokens)
    mask[1, : length - short] = 0
    parts: list[Tensor] = []
    cache = None
    for start, stop in [(0, first), *((i, i + 1) for i in range(first, length))]:
        # A recurrent cache has passed over the padding already, and a step has none of its own.
        step = start > 0 and subject.call.cache == RECURRENT
        more: dict[str, Any] = {} if step else {"attention_mask": mask[:, :stop]}
        if _positions_work(subject, model):
            more["position_ids"] = _positions(mask)[:, start:stop]
        logits, cache = subject.cached(model, tokens[:, start:stop], cache, **more)
        parts.append(logits)
    logits = torch.cat(parts, dim=1)
    return worst_of([gap(logits[0], full), gap(logits[1, length - short :], alone)])


# ----------------------------------------------------------------------------------------------------------------------
# Padding


def _mask_name(subject: Foreign) -> str:
    return "decoder_attention_mask" if subject.facts.encoder_decoder else "attention_mask"


def _positions(mask_BT: Tensor) -> Tensor:
    """Positions that count from the first token of a row that is no padding."""
    return (mask_BT.cumsum(dim=-1) - 1).clamp_min(0)


def _positions_work(subject: Foreign, model: nn.Module) -> bool:
    """Whether position_ids 0, 1, 2, ... are what the model would count itself (some count from another number)."""
    if not subject.call.accepts("position_ids"):
        return False
    tokens = subject.tokens(1, min(8, subject.length))
    counted = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
    try:
        found = subject.logits(model, tokens, position_ids=counted)
    except Exception:  # noqa: BLE001 (a foreign forward may mean something else by the name)
        return False
    return gap(found, subject.logits(model, tokens)) <= subject.precision.bound


@torch.no_grad()
def padding_invariance(subject: Foreign) -> Measure:
    """Padding under an attention_mask of zeros, on the right and on the left, changes no logits."""
    name = _mask_name(subject)
    if not subject.call.accepts(name):
        return does_not_apply(f"forward takes no {name}")
    model, bound, tokens = subject.exact(), subject.precision.bound, _short(subject)
    alone = subject.logits(model, tokens)
    try:
        ones = subject.logits(model, tokens, **{name: torch.ones_like(tokens)})
    except Exception as error:
        # Only Hugging Face's classes promise what the name means.
        if hasattr(getattr(subject.given, "config", None), "model_type"):
            raise
        return does_not_apply(f"{name} is not ones and zeros of [batch, time]: {type(error).__name__}")
    pad, fill = subject.length - tokens.shape[1], subject.facts.pad_id or 0
    mask = F.pad(torch.ones_like(tokens), (0, pad))
    right = subject.logits(model, F.pad(tokens, (0, pad), value=fill), **{name: mask})
    ways = {"a mask of ones": gap(ones, alone), "padding on the right": gap(right[:, : tokens.shape[1]], alone)}
    if subject.facts.encoder_decoder:
        ways["padding of the source"] = _source_padding(subject, model, tokens, alone)
    where, most = worst_in(ways)
    if not most <= bound:
        return failed(f"{where} moves the logits", measured=most, bound=bound)
    left = _left(subject, model, fill)
    detail = f"{tokens.shape[1]} tokens, {pad} of padding: {', '.join(ways)}"
    if left <= bound:
        return within(max(most, left), bound, f"{detail}, padding on the left")
    if _reads_padding(subject, model):
        return failed("padding on the left is read although its mask is zero", measured=left, bound=bound)
    if _positions_work(subject, model):
        return failed("padding on the left moves the logits in spite of position_ids", measured=left, bound=bound)
    warning = "padding on the left shifts positions, and forward takes no position_ids: pad on the right"
    return within(most, bound, detail, warning=warning)


def _short(subject: Foreign) -> Tensor:
    return subject.tokens(1, max(1, subject.length * 2 // 3), salt=3)


def _left(subject: Foreign, model: nn.Module, fill: int) -> float:
    """How far padding on the left, with its mask and positions, moves the logits; infinite where it cannot be said."""
    if not subject.call.accepts(_mask_name(subject)):
        return float("inf")
    tokens = _short(subject)
    alone = subject.logits(model, tokens)
    return gap(_left_logits(subject, model, tokens, fill), alone)


def _left_logits(subject: Foreign, model: nn.Module, tokens_BT: Tensor, fill: int) -> Tensor:
    pad = subject.length - tokens_BT.shape[1]
    mask = F.pad(torch.ones_like(tokens_BT), (pad, 0))
    more: dict[str, Any] = {_mask_name(subject): mask}
    if _positions_work(subject, model):
        more["position_ids"] = _positions(mask)
    return subject.logits(model, F.pad(tokens_BT, (pad, 0), value=fill), **more)[:, pad:]


def _reads_padding(subject: Foreign, model: nn.Module) -> bool:
    tokens, fills = _short(subject), subject.ids[[0, -1]].tolist()
    one, other = (_left_logits(subject, model, tokens, fill) for fill in fills)
    return not gap(one, other) <= subject.precision.bound


def _source_padding(subject: Foreign, model: nn.Module, tokens_BT: Tensor, alone: Tensor) -> float:
    source = subject.tokens(1, min(subject.length, 24), salt=77)
    padded = F.pad(source, (0, 7), value=subject.facts.pad_id or 0)
    mask = F.pad(torch.ones_like(source), (0, 7))
    return gap(subject.logits(model, tokens_BT, input_ids=padded, attention_mask=mask), alone)


# ----------------------------------------------------------------------------------------------------------------------
# Packed documents


@torch.no_grad()
def packed_documents(subject: Foreign) -> Measure:
    """Documents in one row, told apart by position_ids that start again, give the logits of each alone."""
    model = subject.exact()
    if subject.facts.encoder_decoder:
        return does_not_apply("each row of an encoder-decoder has one source")
    if not subject.call.accepts("position_ids"):
        return does_not_apply("forward takes no position_ids, so nothing tells it where a document starts")
    if not _positions_work(subject, model):
        return does_not_apply("position_ids are not counted from zero")
    length = subject.length
    sizes = [max(1, length // 2), 3, max(1, length // 5)]
    sizes = [size for size in (*sizes, length - sum(sizes)) if size > 0]
    rows = [subject.tokens(1, size, salt=10 + i) for i, size in enumerate(sizes)]
    counted = torch.cat([torch.arange(size, device=subject.device) for size in sizes]).unsqueeze(0)
    packed = torch.cat(rows, dim=1)
    alone = torch.cat([subject.logits(model, row) for row in rows], dim=1)
    bound = subject.precision.bound
    found = gap(subject.logits(model, packed, position_ids=counted), alone)
    detail = f"documents of {', '.join(map(str, sizes))} tokens in one row"
    if found <= bound:
        return within(found, bound, detail)
    by_mask = _by_block_mask(subject, model, packed, counted, sizes, alone)
    if by_mask is not None and by_mask <= bound:
        warning = "position_ids alone do not keep documents apart; give a mask of blocks [batch, 1, time, time] too"
        return within(by_mask, bound, f"{detail}, with a mask of blocks", warning=warning)
    reason = "position_ids that start again do not keep documents apart: pack none, or each sees the ones before it"
    return Measure(passed=True, applies=False, detail=reason, measured=found, bound=bound)


def _by_block_mask(
    subject: Foreign, model: nn.Module, packed: Tensor, counted: Tensor, sizes: list[int], alone: Tensor
) -> float | None:
    """The gap with a mask [1, 1, T, T] of blocks to add to the scores; None where the model does not take one."""
    if not subject.call.accepts("attention_mask"):
        return None
    blocks = torch.block_diag(*(torch.ones(size, size) for size in sizes)).bool()
    allowed = (blocks.tril() if subject.facts.causal else blocks).to(subject.device)
    dtype = subject.precision.dtype
    added = torch.zeros(allowed.shape, dtype=dtype, device=subject.device).masked_fill(~allowed, torch.finfo(dtype).min)
    try:
        logits = subject.logits(model, packed, position_ids=counted, attention_mask=added[None, None])
    except Exception:  # noqa: BLE001 (most models take masks of two axes only)
        return None
    return gap(logits, alone)
