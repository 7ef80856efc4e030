"""Targets written for many sources at once, each token the likeliest: what an encoder-decoder is scored by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn import Model


@torch.no_grad()
def answer(
    model: Model,
    sources: Sequence[Sequence[int]],
    *,
    start: int,
    stop: int,
    max_tokens: int,
    vocabulary: int | None = None,
) -> list[list[int]]:
    """Greedy targets of token sequences: from `start` until `stop`, which is not among them, or `max_tokens`.

    Each is what it would be by itself: padding and the other rows have no part in it. vocabulary: keep to ids below
    it. Raises UsageError when the model has no encoder, a source is empty or longer than the context, or
    `max_tokens` leaves the context.
    """
    architecture = model.architecture
    if model.encoder is None:
        raise UsageError(f"{architecture.name} has no encoder", fix="use a causal model's Generation")
    if not 1 <= max_tokens <= architecture.context:
        what = f"max_tokens={max_tokens:,} does not fit a context of {architecture.context:,}"
        raise UsageError(what, fix=f"use 1 to {architecture.context:,}")
    lengths = [len(source) for source in sources]
    if not lengths:
        return []
    for number, length in enumerate(lengths, 1):
        if not 1 <= length <= architecture.context:
            what = f"source {number} is {length:,} tokens long, and 1 to {architecture.context:,} fit"
            raise UsageError(what, fix="cut it, or leave it out")
    source_BS = torch.zeros(len(sources), max(lengths), dtype=torch.int64, device=model.device)
    for row, source in enumerate(sources):
        source_BS[row, : len(source)] = torch.tensor(list(source), device=model.device)
    cache = model.cache(len(sources), capacity=max_tokens, source_capacity=max(lengths))
    written: list[list[int]] = [[] for _ in sources]
    open_rows = set(range(len(sources)))
    tokens_B1 = torch.full((len(sources), 1), start, dtype=torch.int64, device=model.device)
    table_VD = model.embedding.tokens.weight
    for step in range(max_tokens):
        given = {"source": source_BS, "source_lengths": lengths} if step == 0 else {}
        h_B1D = model.hidden(tokens_B1, cache=cache, **given)
        tokens_B1 = model.head(h_B1D, table_VD)[:, :, :vocabulary].argmax(dim=-1)
        for row, token in enumerate(tokens_B1[:, 0].tolist()):
            if row in open_rows and token == stop:
                open_rows.discard(row)
            elif row in open_rows:
                written[row].append(token)
        if not open_rows:
            break
    return written
