"""What routers share: their answer, scores in full precision, the choice and its record, the load of experts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.counting import occurrences
from vitruvius.nn.ops.draws import keys_of_places, normal
from vitruvius.nn.ops.norm import statistics_dtype
from vitruvius.spec.layer import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn.place import Place, Signals
    from vitruvius.spec.ffn.moe import Moe

MOST_LAYERS = 1 << 16
"""Far more than a model has, and all keys of updates times it are below 2^63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Which experts work on which token, and what their results weigh."""

    chosen_NK: Tensor
    """Ids of each token's experts, int64."""
    weights_NK: Tensor
    """What each result is multiplied by, in at least fp32."""
    kept_NK: Tensor | None = None
    """Which of these pairs are computed, bool; None is all of them."""


class RouterModule(nn.Module):
    """Base of routers: it knows the mixture's sizes, and the load of its experts since the last update."""

    def __init__(self, moe: Moe) -> None:
        super().__init__()
        self.experts, self.top_k = moe.experts, moe.top_k
        self.load_E: Tensor | None = None
        """Pairs sent to each expert in this update, int64; None until `after_step` was called for the first time."""

        self.draw_key: Tensor | None = None
        """Of the update that is computed, int64; see `vitruvius.nn.updates.begin_update`."""

    def begin_update(self, key: int) -> None:
        """Draw other noise than in the updates before; a tensor, since a compiler would compile anew for a number."""
        self.draw_key = torch.tensor(key)

    def noisy(self, scores_NE: Tensor, noise: float, place: Place) -> Tensor:
        """The scores with normal noise while training: a function of the update, the row's tokens, place and layer."""
        if not noise or not self.training:
            return scores_NE
        assert place.tokens is not None, "the model says which tokens these are"
        layer = place.layer
        own = 0 if layer is None else len(Stack) * layer.index + tuple(Stack).index(layer.stack)
        key = own if self.draw_key is None else self.draw_key.to(scores_NE.device) * MOST_LAYERS + own
        draws_NE = normal(keys_of_places(place.tokens, key), self.experts)
        return scores_NE + noise * draws_NE.to(scores_NE.dtype)

    def after_step(self) -> None:
        """Begin the next update; see `vitruvius.nn.updates`."""
        # Where it was before: a load that begins on the CPU is copied to the device in the midst of every forward pass.
        device = None if self.load_E is None else self.load_E.device
        self.load_E = torch.zeros(self.experts, dtype=torch.int64, device=device)

    def gathered(self) -> Tensor | None:
        """The load of the update up to now."""
        return self.load_E

    def gather(self, known: Tensor | None) -> None:
        """Go on from a load that `gathered` gave; see `vitruvius.nn.updates`."""
        self.load_E = known

    @property
    def _gathers(self) -> bool:
        """Whether a pass is part of an update: one without gradients is validation, for which no process waits."""
        return self.load_E is not None and self.training and torch.is_grad_enabled()

    def pick(self, choose: Callable[[], Tensor], signals: Signals | None) -> Tensor:
        """What `choose` gives, or what is replayed; recorded for those who listen."""
        picked = next(signals.replay) if signals is not None and signals.replay is not None else choose()
        if signals is not None and signals.routing is not None:
            signals.routing.append(picked)
        return picked

    def counted(self, chosen_NK: Tensor) -> Tensor:
        """Pairs of each expert in this pass, [E] int64, added to the load of the update while training."""
        counts_E = occurrences(chosen_NK.flatten(), self.experts)
        if self._gathers and self.load_E is not None:
            self.load_E = self.load_E.to(counts_E.device) + counts_E
        return counts_E

    def share(self, counts_E: Tensor) -> Tensor:
        """Share of the load that fell on each expert, fp32 [E]: of this pass, or of the update up to now, on all ranks.

        The balance loss of a batch that is computed in pieces, or by several processes, is about the whole of it (Qiu
        et al., "Demons in the Detail", 2025).
        """
        total_E = over_ranks(self.load_E) if self._gathers and self.load_E is not None else counts_E
        return (total_E / total_E.sum().clamp_min(1)).float()

    def balance(self, counts_E: Tensor, probabilities_NE: Tensor) -> Tensor:
        """The Switch balance loss, E * sum_e share_e * mean probability_e: one where load and trust are even."""
        share_E = self.share(counts_E).to(probabilities_NE.dtype)
        return self.experts * (share_E * probabilities_NE.mean(dim=0)).sum()

    def report_load(self, counts_E: Tensor, signals: Signals) -> None:
        """How evenly experts are used, by the tokens of all processes; counts have no gradient."""
        counts_E = over_ranks(counts_E) if self._gathers else counts_E
        load_E = counts_E.float()
        mean = load_E.mean().clamp_min(1e-30)
        signals.report("expert_load_max_over_mean", load_E.max() / mean)
        signals.report("expert_load_cv", load_E.std(correction=0) / mean)
        signals.report("dead_experts", (counts_E == 0).sum())

    @torch.no_grad()
    def report_scores(self, scores_NE: Tensor, probabilities_NE: Tensor, signals: Signals) -> None:
        """How sure the router is, and how large its scores have grown."""
        logs_NE = probabilities_NE.clamp_min(torch.finfo(probabilities_NE.dtype).tiny).log()
        signals.report("router_entropy", -(probabilities_NE * logs_NE).sum(dim=-1).mean())
        signals.report("router_logit_norm", scores_NE.norm(dim=-1).mean())


def scores_of(x_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """Scores of each token's experts, [N, E] in at least fp32: a rounding here would change who works."""
    wide = statistics_dtype(x_ND.dtype)
    kind = x_ND.device.type
    off = contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
    with off:
        return F.linear(x_ND.to(wide), weight_ED.to(wide))


def over_ranks(counts_E: Tensor) -> Tensor:
    """The sum over all processes that train together; the counts themselves where there is one process."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts_E
    return _summed(counts_E)


@uncompiled  # a message at this place in every process, whatever each has compiled around it
def _summed(counts_E: Tensor) -> Tensor:
    total_E = counts_E.clone()
    torch.distributed.all_reduce(total_E)
    return total_E
