"""Hidden tokens of a text, filled in by a model that reads in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError
from vitruvius.inference.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn import Model


@torch.inference_mode()
def fill(
    model: Model,
    tokens: Sequence[int],
    *,
    mask: int,
    sampler: Sampler | None = None,
    seed: int = 0,
    vocabulary: int | None = None,
) -> list[int]:
    """The tokens with every `mask` replaced, the surest one first, each seeing those filled before it.

    Raises UsageError when nothing is masked, the text is longer than the context, or the model sees the past alone.
    """
    architecture = model.architecture
    filled, sampler = list(tokens), sampler or Sampler()
    if architecture.head.causal:
        raise UsageError(f"{architecture.name} continues a text and fills in none", fix="use it without masks")
    if mask not in filled:
        raise UsageError("nothing is masked", fix="write [MASK] where tokens are to be filled in")
    if len(filled) > architecture.context:
        raise UsageError(
            f"the text is {len(filled):,} tokens long and the context holds {architecture.context:,}",
            fix="use a shorter text",
        )
    generator = torch.Generator(device=model.device).manual_seed(seed)
    while mask in filled:
        logits_TV = model(torch.tensor([filled], device=model.device))[0, :, :vocabulary].float()
        if vocabulary is None:
            logits_TV[:, mask] = -torch.inf  # a mask is no answer
        hidden = [place for place, token in enumerate(filled) if token == mask]
        surest = hidden[int(logits_TV[hidden].log_softmax(dim=-1).amax(dim=-1).argmax())]
        filled[surest] = int(sampler.sample(logits_TV[surest : surest + 1], generator))
    return filled
