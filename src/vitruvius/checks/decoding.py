"""Probes of cached decoding and of what shares a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.checks.compare import EXACT, gap, worst_in, worst_of
from vitruvius.checks.outcome import Measure, does_not_apply, within

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model


@torch.no_grad()
def cached_decode(subject: Subject) -> Measure:
    """A token at a time, in chunks, and with rows of different lengths, a cache gives the logits of one full pass."""
    if not subject.graph.is_causal:
        return does_not_apply("a stack that sees later tokens has no decode cache")
    model, length = subject.model, subject.length
    tokens = subject.tokens(2, length)
    full = model(tokens)
    ways = {
        "one token at a time": gap(decoded(model, tokens, [1] * length), full),
        "prefill in chunks": gap(decoded(model, tokens, _chunks(length)), full),
        "rows of different lengths": _uneven(subject),
        "a reset row": _reused(model, tokens, full),
    }
    where, most = worst_in(ways)
    detail = f"{length} tokens: {', '.join(ways)}" if most <= EXACT else f"{where}: differs from the full pass"
    return within(most, EXACT, detail)


def decoded(model: Model, tokens_BT: Tensor, chunks: Iterable[int]) -> Tensor:
    """Logits of the tokens put through a cache in runs of the given lengths."""
    cache = model.cache(tokens_BT.shape[0], capacity=tokens_BT.shape[1])
    parts, start = [], 0
    for size in chunks:
        parts.append(model(tokens_BT[:, start : start + size], cache=cache))
        start += size
    return torch.cat(parts, dim=1)


def _chunks(length: int) -> list[int]:
    """A long prefill, single steps, and chunks that straddle every kind of boundary."""
    sizes = [max(1, length // 3), 1, 1, 7, 2, max(1, length // 4)]
    chosen: list[int] = []
    while sum(chosen) < length:
        size = sizes[len(chosen)] if len(chosen) < len(sizes) else 5
        chosen.append(min(size, length - sum(chosen)))
    return chosen


def _uneven(subject: Subject) -> float:
    """Three rows prefilled to different lengths in one padded call, then stepped and refilled unevenly."""
    model, length = subject.model, subject.length
    tokens = subject.tokens(3, length, salt=1)
    full = model(tokens)
    cache = model.cache(3, capacity=length)
    done = [0, 0, 0]
    gaps: list[float] = []
    plans = [[length // 2, 1, length // 3], [1, 1, 1], [3, 0, 1], [0, 5, 2], [1, 1, 1], [2, length // 4, 7]]
    for plan in plans:
        counts = [max(0, min(count, length - start)) for count, start in zip(plan, done, strict=True)]
        if not any(counts):
            continue
        rows = [F.pad(tokens[r, done[r] : done[r] + n], (0, max(counts) - n)) for r, n in enumerate(counts)]
        logits = model(torch.stack(rows), cache=cache, counts=counts)
        for row, count in enumerate(counts):
            gaps.append(gap(logits[row, :count], full[row, done[row] : done[row] + count]))
            done[row] += count
    return worst_of(gaps)


def _reused(model: Model, tokens_BT: Tensor, full: Tensor) -> float:
    """One row forgets its sequence and takes another while its neighbour goes on."""
    length = tokens_BT.shape[1]
    first = max(1, length // 2)
    cache = model.cache(2, capacity=length)
    model(tokens_BT[:, :first], cache=cache)
    cache.reset([0])
    after = length - first
    again = torch.stack([tokens_BT[1, :after], tokens_BT[1, first:]])
    if after == 0:
        return 0.0
    parts = [model(again[:, i : i + 1], cache=cache) for i in range(after)]
    logits = torch.cat(parts, dim=1)
    return worst_of([gap(logits[0], full[1, :after]), gap(logits[1], full[1, first:])])


@torch.no_grad()
def batch_invariance(subject: Subject) -> Measure:
    """A row's logits depend neither on its neighbours in the batch nor on where it stands among them."""
    tokens = subject.tokens(3, subject.length, salt=2)
    together = subject.model(tokens)
    gaps = {"alone": worst_of(gap(together[row], subject.model(tokens[row : row + 1])[0]) for row in range(3))}
    gaps["in another order"] = gap(subject.model(tokens.flip(0)).flip(0), together)
    where, most = worst_in(gaps)
    detail = f"3 rows of {subject.length} tokens together, alone and in another order"
    return within(most, EXACT, detail if most <= EXACT else f"rows {where} give other logits")


@torch.no_grad()
def padding_invariance(subject: Subject) -> Measure:
    """Padding on either side, as a document of its own, changes no logits; nor do later tokens on the right."""
    length = max(1, subject.length * 2 // 3)
    tokens = subject.tokens(1, length, salt=3)
    alone = subject.model(tokens)
    pad = max(1, subject.length - length)
    gaps: list[float] = []
    for left, right in ((0, pad), (pad, 0), (pad // 2, pad - pad // 2)):
        padded = F.pad(tokens, (left, right), value=0)
        documents = torch.full_like(padded, 0)
        documents[:, :left], documents[:, left + length :] = -1, -2
        logits = subject.model(padded, documents=documents)[:, left : left + length]
        gaps.append(gap(logits, alone))
    if subject.probed.head.causal:
        gaps.append(gap(subject.model(F.pad(tokens, (0, pad)))[:, :length], alone))
    detail = f"{length} tokens with {pad} of padding left, right and on both sides"
    if subject.graph.encoder:
        gaps.append(_padded_source(subject, tokens, pad))
        detail += ", and a padded source"
    return within(worst_of(gaps), EXACT, detail)


def _padded_source(subject: Subject, tokens_1T: Tensor, pad: int) -> float:
    """Rows with sources of different lengths against each with its own source alone, in a full pass and decoding."""
    model, length = subject.model, tokens_1T.shape[1]
    sources = [subject.tokens(1, max(1, size), salt=15) for size in (length, length - pad // 2 - 1)]
    lengths = [source.shape[1] for source in sources]
    padded = torch.cat([F.pad(source, (0, max(lengths) - source.shape[1]), value=1) for source in sources])
    tokens = tokens_1T.repeat(2, 1)
    ways = {"full": model(tokens, source=padded, source_lengths=lengths)}
    if subject.graph.is_causal:
        cache = model.cache(2, capacity=length)
        ways["cached"] = model(tokens, source=padded, source_lengths=lengths, cache=cache)
    alone = [model(tokens_1T, source=source)[0] for source in sources]
    return worst_of(gap(found[row], alone[row]) for found in ways.values() for row in range(2))


@torch.no_grad()
def packed_documents(subject: Subject) -> Measure:
    """Documents packed into one row give the logits of each of them alone."""
    length = subject.length
    sizes = [max(1, length // 2), 1, max(1, length // 5)]
    sizes = [size for size in (*sizes, length - sum(sizes)) if size > 0]
    rows = [subject.tokens(1, size, salt=10 + i) for i, size in enumerate(sizes)]
    packed = torch.cat(rows, dim=1)
    documents = torch.cat([torch.full_like(row, i) for i, row in enumerate(rows)], dim=1)
    # The second row has its documents in another order, so that rows of one batch differ in where documents start.
    backwards, names = torch.cat(rows[::-1], dim=1), documents.flip(1)
    logits = subject.model(torch.cat([packed, backwards]), documents=torch.cat([documents, names]))
    gaps, start = list[float](), 0
    total = packed.shape[1]
    for row in rows:
        alone, size = subject.model(row.repeat(2, 1))[0], row.shape[1]
        gaps.append(gap(logits[0, start : start + size], alone))
        gaps.append(gap(logits[1, total - start - size : total - start], alone))
        start += size
    return within(worst_of(gaps), EXACT, f"documents of {', '.join(map(str, sizes))} tokens in one row")
