"""Models broken on purpose, each with the probes that turn red: bugs in a small decoder of two kinds of layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitruvius.nn import build
from vitruvius.nn.backends import BACKENDS
from vitruvius.nn.ffn import moe
from vitruvius.nn.ffn.mlp import GatedModule
from vitruvius.nn.heads import LanguageModelHeadModule
from vitruvius.nn.mixers import attention as attention_module
from vitruvius.nn.mixers.attention import AttentionModule
from vitruvius.nn.model import Model
from vitruvius.nn.norms import RMSNormModule
from vitruvius.nn.positions.tables import LearnedPositionModule
from vitruvius.patterns import Clause, Pattern, sliding
from vitruvius.patterns.stores import StorePlan
from vitruvius.spec import read_text
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.mixers.attention import Attention

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug."""

    plant: Callable[..., Any]
    """Takes (monkeypatch, architecture) and returns what is to be checked."""
    by: str
    """The probe that is there to catch it."""
    also: frozenset[str] = frozenset()
    """What else turns red."""
    spec: str = ""
    """The architecture it is planted in."""

    @property
    def red(self) -> set[str]:
        """Every probe that turns red."""
        return {self.by, *self.also}


SPEC = """
name: victim
vocab_size: 61
width: 32
context: 40
blocks:
  local:
    mixer:
      kind: attention
      heads: 4
      kv_heads: 2
      qk_norm: rmsnorm
      sees: causal & sliding(8)
      position: rope
    ffn: {kind: swiglu, hidden: 32}
  full:
    mixer: {kind: attention, heads: 4, sees: causal, position: alibi}
    ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 16}}
layers: local full
"""


def attentions(model: Model):
    return [module for module in model.modules() if isinstance(module, AttentionModule)]


def seeing_one_token_ahead(patch, victim):
    model = build(victim)
    attentions(model)[1].pattern = Pattern((Clause(distance_low=-1),))
    return model


def a_window_of_one_more(patch, victim):
    model = build(victim)
    attentions(model)[0].pattern = sliding(9)
    return model


def a_cache_that_forgets_a_slot(patch, victim):
    def forgetful(self, slot, t):
        position = t - (t - slot) % self.ring
        return position - (position == t - self.ring + 1) * 1000

    patch.setattr(StorePlan, "ring_position", forgetful)
    return victim


def keys_rotated_by_the_wrong_position_while_decoding(patch, victim):
    honest = AttentionModule.forward

    def late(self, x_BTD, place, cache=None):
        if cache is not None and self.position is not None and hasattr(self.position, "rotate"):
            inner = self.position.rotate
            self.position.rotate = lambda q, k, at: (inner(q, k, at)[0], inner(q, k, at + 1)[1])
            try:
                return honest(self, x_BTD, place, cache)
            finally:
                del self.position.rotate
        return honest(self, x_BTD, place, cache)

    patch.setattr(AttentionModule, "forward", late)
    return victim


def a_parameter_nobody_uses(patch, victim):
    model = build(victim)
    model.spare = nn.Parameter(torch.ones(3))
    return model


def a_frozen_parameter(patch, victim):
    model = build(victim)
    model.layers[0].ffn.gate.weight.requires_grad_(requires_grad=False)
    return model


def a_detached_sublayer(patch, victim):
    honest = GatedModule.forward
    patch.setattr(GatedModule, "forward", lambda self, x, place=None: honest(self, x, place).detach())
    return victim


def an_expert_that_is_never_used(patch, victim):
    honest = moe.MoeModule._mix

    def lazy(self, x_ND, routing, backend):
        weights = routing.weights_NK * (routing.chosen_NK != 3)
        return honest(self, x_ND, replace(routing, weights_NK=weights), backend)

    patch.setattr(moe.MoeModule, "_mix", lazy)
    return victim


def a_grouped_product_with_shifted_offsets(patch, victim):
    honest = moe.fused_linear
    patch.setattr(moe, "fused_linear", lambda x, maps, sizes_E: honest(x, maps, sizes_E.roll(1)))
    return victim


def a_backend_with_another_scale(patch, victim):
    honest = BACKENDS["chunked"]

    def scaled(q, k, v, request):
        return honest(q * 1.01, k, v, request)

    patch.setitem(BACKENDS, "chunked", scaled)
    return victim


def decoding_with_another_scale(patch, victim):
    honest = attention_module.attend_stored
    patch.setattr(attention_module, "attend_stored", lambda q, readable, request: honest(q * 1.01, readable, request))
    return victim


def attention_that_does_not_sum_to_one(patch, victim):
    honest = torch.Tensor.softmax

    def off_by_one(self, dim=None, **options):
        weights = honest(self, dim=dim, **options)
        return weights * 0.9 if self.dim() == 4 else weights

    patch.setattr(torch.Tensor, "softmax", off_by_one)
    return victim


def a_head_drawn_a_hundred_times_too_wide(patch, victim):
    honest = build.__globals__["initialise"]

    def wide(model, seed):
        honest(model, seed)
        with torch.no_grad():
            model.head.weight *= 256

    patch.setitem(build.__globals__, "initialise", wide)
    return victim


def a_norm_over_the_batch(patch, victim):
    honest = RMSNormModule.forward
    patch.setattr(RMSNormModule, "forward", lambda self, x: honest(self, x) * (1 + x.shape[0] / 1000))
    return victim


def documents_that_see_each_other(patch, victim):
    honest = Model.hidden

    def blind(self, tokens_BT, *, documents=None, **rest):
        return honest(self, tokens_BT, documents=None if documents is None else torch.zeros_like(documents), **rest)

    patch.setattr(Model, "hidden", blind)
    return victim


def a_loss_that_forgets_to_ignore(patch, victim):
    honest = LanguageModelHeadModule.loss

    def counting(self, h_ND, targets_N, table_VD, *, per_token=False):
        return honest(self, h_ND, targets_N.clamp_min(0), table_VD, per_token=per_token)

    patch.setattr(LanguageModelHeadModule, "loss", counting)
    return victim


def a_division_by_zero_on_one_token(patch, victim):
    honest = Model.hidden

    def fragile(self, tokens_BT, **rest):
        h = honest(self, tokens_BT, **rest)
        return h / 0 * 0 if tokens_BT.shape[1] > 1 and bool((tokens_BT == tokens_BT[0, 0]).all()) else h

    patch.setattr(Model, "hidden", fragile)
    return victim


def sums_in_half_precision(patch, victim):
    honest = Model.hidden

    def coarse(self, tokens_BT, **rest):
        h = honest(self, tokens_BT, **rest)
        return h.to(torch.float8_e5m2).to(h.dtype) if h.dtype == torch.bfloat16 else h

    patch.setattr(Model, "hidden", coarse)
    return victim


def a_cost_that_forgets_a_product(patch, victim):
    honest = SwiGLU.flops
    patch.setattr(SwiGLU, "flops", lambda self, scope, tokens: honest(self, scope, tokens - 1))
    return victim


def a_count_that_forgets_the_windows(patch, victim):
    honest = Attention.flops

    def all_pairs(self, scope, tokens):
        cost = honest(self, scope, tokens)
        return type(cost)(useful=cost.dense, dense=cost.dense)

    patch.setattr(Attention, "flops", all_pairs)
    return victim


def a_cache_with_growth_slack(patch, victim):
    honest = AttentionModule.decode_state

    def roomy(self, batch, capacity, scope):
        store = honest(self, batch, capacity, scope)
        spare = store.slots["k"].new_zeros(batch, 1)
        store.tensors = lambda: (*store.slots.values(), spare)
        return store

    patch.setattr(AttentionModule, "decode_state", roomy)
    return victim


def logits_of_the_last_token_only(patch, victim):
    honest = LanguageModelHeadModule.forward
    patch.setattr(LanguageModelHeadModule, "forward", lambda self, h, table: honest(self, h[:, -1:], table))
    return victim


def a_learned_table_that_wraps_around(patch, victim):
    def wrapping(self, x_BTD, place):
        return x_BTD + self.weight[place.positions % self.weight.shape[0]]

    patch.setattr(LearnedPositionModule, "embed", wrapping)
    return read_text(SPEC + "embedding: {position: learned}\n").architecture


def weights_from_an_unseeded_generator(patch, victim):
    honest = build.__globals__["initialise"]

    def careless(model, seed):
        honest(model, seed)
        with torch.no_grad():
            model.embedding.tokens.weight += 1e-3 * torch.randn_like(model.embedding.tokens.weight)

    patch.setitem(build.__globals__, "initialise", careless)
    return victim


def state_that_is_no_parameter(patch, victim):
    honest = build.__globals__["initialise"]

    def hiding(model, seed):
        honest(model, seed)
        model.head.offset = 0.001 * seed

    honest_forward = LanguageModelHeadModule.forward

    def shifted(self, h, table):
        return honest_forward(self, h, table) + getattr(self, "offset", 0.0)

    patch.setitem(build.__globals__, "initialise", hiding)
    patch.setattr(LanguageModelHeadModule, "forward", shifted)
    return victim


def a_model_that_cannot_listen(patch, victim):
    honest = Model._stream
    patch.setattr(Model, "_stream", lambda self, *given: honest(self, *given) * 0 + self.final_norm.weight * 0.1)
    return victim


def a_mutant(plant, by: str, *also: str) -> Mutant:
    """A line of the table below."""
    return Mutant(plant=plant, spec=SPEC, by=by, also=frozenset(also))


MUTANTS = {
    "the future is visible": a_mutant(
        seeing_one_token_ahead,
        "future-leak",
        "adversarial",
        "attention-pattern",
        "cached-decode",
        "length-stress",
        "padding-invariance",
        "receptive-field",
    ),
    "window + 1": a_mutant(a_window_of_one_more, "attention-pattern", "adversarial", "cached-decode", "length-stress"),
    "forgotten slot": a_mutant(a_cache_that_forgets_a_slot, "cached-decode", "adversarial", "length-stress"),
    "wrong position in the cache": a_mutant(
        keys_rotated_by_the_wrong_position_while_decoding, "cached-decode", "adversarial", "length-stress"
    ),
    "unused parameter": a_mutant(a_parameter_nobody_uses, "parameters", "gradients"),
    "frozen parameter": a_mutant(a_frozen_parameter, "gradients"),
    "detached": a_mutant(a_detached_sublayer, "gradients", "derivative"),
    "idle expert": a_mutant(an_expert_that_is_never_used, "gradients"),
    "shifted offsets": a_mutant(a_grouped_product_with_shifted_offsets, "experts"),
    "scale of a backend": a_mutant(
        a_backend_with_another_scale, "backends", "adversarial", "cached-decode", "length-stress"
    ),
    "scale of decoding": a_mutant(decoding_with_another_scale, "cached-decode", "adversarial", "length-stress"),
    "rows of 0.9": a_mutant(attention_that_does_not_sum_to_one, "attention-pattern", "backends"),
    "wide head": a_mutant(a_head_drawn_a_hundred_times_too_wide, "init-loss", "init-scale"),
    "batch norm": a_mutant(a_norm_over_the_batch, "batch-invariance"),
    "documents mixed": a_mutant(documents_that_see_each_other, "packed-documents", "padding-invariance"),
    "ignored targets": a_mutant(a_loss_that_forgets_to_ignore, "loss"),
    "fragile input": a_mutant(a_division_by_zero_on_one_token, "no-nan"),
    "coarse bf16": a_mutant(sums_in_half_precision, "bf16"),
    "cheap ffn": a_mutant(a_cost_that_forgets_a_product, "flops"),
    "all pairs useful": a_mutant(a_count_that_forgets_the_windows, "flops"),
    "slack": a_mutant(a_cache_with_growth_slack, "cache-bytes"),
    "last token only": a_mutant(
        logits_of_the_last_token_only,
        "output-shape",
        "adversarial",
        "backends",
        "cached-decode",
        "flops",
        "future-leak",
        "init-loss",
        "length-stress",
        "loss",
        "packed-documents",
        "padding-invariance",
        "receptive-field",
    ),
    "wrapped positions": a_mutant(a_learned_table_that_wraps_around, "positions", "length-stress"),
    "unseeded": a_mutant(weights_from_an_unseeded_generator, "determinism"),
    "hidden state": a_mutant(state_that_is_no_parameter, "round-trip"),
    "deaf": a_mutant(a_model_that_cannot_listen, "overfits", "future-leak", "gradients", "receptive-field"),
}
"""What is broken -> how, and the probes that turn red."""
