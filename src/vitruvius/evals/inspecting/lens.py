"""From layer to layer: how large the residual stream is, how much each layer changes it, what it would predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.evals.inspecting.listening import Heard
    from vitruvius.nn import Model


def stream_facts(heard: Heard) -> list[dict[str, Any]]:
    """Size of the stream after each layer (root mean square per channel), that at the first token apart: a few
    channels of it often grow by orders of magnitude (Sun et al., Massive Activations, 2024).
    """
    facts: list[dict[str, Any]] = []
    before: Tensor | None = None
    for path, x_BTD in heard.stream.items():
        x_TD = x_BTD[0].double().cpu()
        if path.endswith("embedding"):
            before = None
        rms_T = x_TD.square().mean(-1).sqrt()
        change = None
        if before is not None:
            change = float(((x_TD - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-300)).mean())
        facts.append(
            {
                "path": path,
                "rms": float(rms_T.mean()),
                "rms_first_token": float(rms_T[0]),
                "largest": float(x_TD.abs().max()),
                "relative_change": change,
            }
        )
        before = x_TD
    return facts


def lens_facts(model: Model, heard: Heard, tokens: tuple[int, ...], name: Callable[[int], str]) -> dict[str, Any]:
    """What the head makes of the stream after each layer, as if the others were not there (nostalgebraist, 2020).

    Nats are about the next token of a causal model, and about the token itself where later tokens are seen.
    """
    causal = bool(model.architecture.head.causal)
    ids = torch.tensor(tokens)
    layers = ["embedding", *(layer.path for layer in model.graph.layers)]
    logs = {path: _log_probabilities(model, heard.stream[path][:1]) for path in layers}
    final_TV = logs[layers[-1]]
    rows: list[dict[str, Any]] = []
    for path in layers:
        logs_TV = logs[path]
        best = logs_TV.max(-1)
        scored, targets = (logs_TV[:-1], ids[1:]) if causal else (logs_TV, ids)
        rows.append(
            {
                "path": path,
                "nats": float(F.nll_loss(scored, targets)),
                "agrees_with_last": float((best.indices == final_TV.argmax(-1)).double().mean()),
                "top": [
                    {"text": name(int(token)), "p": float(value)}
                    for token, value in zip(best.indices, best.values.exp(), strict=True)
                ],
            }
        )
    return {"target": "the next token" if causal else "the token itself", "layers": rows}


@torch.no_grad()
def _log_probabilities(model: Model, x_1TD: Tensor) -> Tensor:
    normed = x_1TD if model.final_norm is None else model.final_norm(x_1TD)
    logits_1TV = model.head(normed, model.embedding.tokens.weight)
    return logits_1TV[0].double().log_softmax(-1).cpu()
