"""One vector for each text: the last residual stream, pooled over the text's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vitruvius.nn import Model

Pooling = Literal["mean", "first", "last"]
"""Which tokens' vectors make the text's: their mean, the first one's (BERT), or the last one's (causal models)."""


@torch.inference_mode()
def embed(model: Model, texts: Sequence[Sequence[int]], *, pooling: Pooling = "mean") -> Tensor:
    """Vectors of token sequences, fp32 [len(texts), width], of Euclidean length 1; padding has no part in them.

    Of an encoder-decoder, the encoder reads the texts. Raises UsageError when a text is empty or longer than the
    context, and for an unknown pooling.
    """
    if pooling not in get_args(Pooling):
        raise UsageError(f"there is no pooling {pooling!r}", fix=f"use one of {', '.join(get_args(Pooling))}")
    context = model.architecture.context
    lengths = [len(text) for text in texts]
    for number, length in enumerate(lengths, 1):
        if length == 0:
            raise UsageError(f"text {number} is empty", fix="give at least one token")
        if length > context:
            raise UsageError(
                f"text {number} is {length:,} tokens long and the context holds {context:,}", fix="use a shorter text"
            )
    if not lengths:
        raise UsageError("there are no texts", fix="give at least one")
    ids_BT = torch.zeros(len(texts), max(lengths), dtype=torch.int64, device=model.device)
    for row, text in enumerate(texts):
        ids_BT[row, : len(text)] = torch.tensor(list(text), device=model.device)
    real_BT = torch.arange(max(lengths), device=model.device) < torch.tensor(lengths, device=model.device).unsqueeze(1)
    if model.encoder is not None:
        h_BTD = model.encode(ids_BT, lengths=lengths)
    else:
        # Padding is a document of its own, so that no token reads it.
        h_BTD = model.hidden(ids_BT, documents=real_BT.long())
    return torch.nn.functional.normalize(_pooled(h_BTD.float(), real_BT, pooling), dim=-1)


def _pooled(h_BTD: Tensor, real_BT: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "first":
        return h_BTD[:, 0]
    if pooling == "last":
        return h_BTD[torch.arange(len(h_BTD), device=h_BTD.device), real_BT.sum(dim=1) - 1]
    weights_BT1 = real_BT.to(h_BTD).unsqueeze(-1)
    return (h_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
