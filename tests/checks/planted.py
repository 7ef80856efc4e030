"""More models broken on purpose, each in the architecture that has what the bug is about."""

from __future__ import annotations

from dataclasses import replace

import torch
from mutants import SPEC, Mutant
from torch.nn import functional as F

from vitruvius.nn import build, inits
from vitruvius.nn.backends import reference as reference_backend
from vitruvius.nn.block import LayerModule
from vitruvius.nn.cache import Cache
from vitruvius.nn.cross import Source
from vitruvius.nn.heads import LanguageModelHeadModule
from vitruvius.nn.mixers import attention as attention_module
from vitruvius.nn.mixers import linear, mamba2
from vitruvius.nn.mixers.attention import AttentionModule
from vitruvius.nn.mixers.keyvalue import KeyValueStore
from vitruvius.nn.mixers.recurrent import RecurrentState
from vitruvius.nn.mtp import TokenAhead
from vitruvius.nn.norms import RMSNormModule
from vitruvius.nn.positions import fox, rope
from vitruvius.nn.routers import sigmoid, softmax
from vitruvius.nn.routers.sigmoid import SigmoidRouterModule
from vitruvius.patterns import sliding

BODY = """
name: {name}
vocab_size: 61
width: 32
context: {context}
{more}
"""


def spec(name: str, blocks: str, layers: str, *, context: int = 40, more: str = "") -> str:
    """A small architecture as text."""
    head = BODY.format(name=name, context=context, more=more)
    return (
        f"{head}\nblocks:\n" + "\n".join(f"  {line}" for line in blocks.strip().splitlines()) + f"\nlayers: {layers}\n"
    )


ATTENTION = "{kind: attention, heads: 4, kv_heads: 2, sees: causal, position: rope}"
FFN = "{kind: swiglu, hidden: 32}"
PLAIN = spec("plain", f"a: {{mixer: {ATTENTION}, ffn: {FFN}}}", "a*2", more="head: {kind: lm, tied: true}")
LONG = spec("long", f"a: {{mixer: {ATTENTION}, ffn: {FFN}}}", "a", context=60_000)
DEEP = spec("deep", f"a: {{mixer: {ATTENTION}, ffn: {FFN}}}", "a*9", more="init: kaiming")
BRANCHED = spec("branched", f"a: {{mixer: {ATTENTION}, ffn: {FFN}, residual_scale: 0.5}}", "a*2")
FORGETTING = spec("forgetting", f"a: {{mixer: {ATTENTION.replace('rope', 'fox')}, ffn: {FFN}}}", "a*2")
SINKS = spec("sinks", f"a: {{mixer: {ATTENTION.replace('position: rope', 'sinks: learned')}, ffn: {FFN}}}", "a")
STATE = spec("state", f"a: {{mixer: {{kind: mamba2, heads: 4, head_width: 8, state: 4, conv: 4}}, ffn: {FFN}}}", "a*2")
BALANCED = spec(
    "balanced",
    f"a: {{mixer: {ATTENTION}, ffn: {{kind: moe, experts: 4, top_k: 2, expert: {FFN}, router: sigmoid}}}}",
    "a*2",
)
AHEAD = spec("ahead", f"a: {{mixer: {ATTENTION}, ffn: {FFN}}}", "a*2", more="mtp: {block: a, depth: 1}")
TRANSLATING = spec(
    "translating",
    f"e: {{mixer: {ATTENTION.replace('causal', 'everything')}, ffn: {FFN}}}\n"
    f"d: {{mixer: {ATTENTION}, cross: {{kind: attention, heads: 4}}, ffn: {FFN}}}",
    "d*2",
    more="encoder: {layers: e*2}",
)
LENDING = spec(
    "lending",
    f"near: {{mixer: {ATTENTION.replace('causal', 'causal & sliding(3)')}, ffn: {FFN}}}\n"
    "far: {mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal & sliding(9), position: rope, kv_from: near}}",
    "near*2 far",
)

# ----------------------------------------------------------------------------------------------------------------------
# Who sees whom


def a_window_of_one_less(patch, victim):
    model = build(victim)
    model.layers[0].mixer.pattern = sliding(7)
    return model


def a_norm_over_time(patch, victim):
    patch.setattr(RMSNormModule, "forward", lambda self, x: x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt())
    patch.setattr(RMSNormModule, "fork", lambda self, x: (x, self.forward(x)))
    return victim


def keys_of_the_wrong_layer(patch, victim):
    honest = attention_module._lender
    patch.setattr(attention_module, "_lender", lambda place, what: 0 * honest(place, what))
    honest_lend = AttentionModule._lend

    def lend_all(self, k_BGTK, v_BGTK, place, cache):
        honest_lend(self, k_BGTK, v_BGTK, place, cache)
        if place.layer is not None:
            place.passed.keys[place.layer.index] = (k_BGTK, v_BGTK) if cache is None else cache
            if cache is not None:
                cache.is_lent = True

    patch.setattr(AttentionModule, "_lend", lend_all)
    return victim


def a_padded_source_that_is_read(patch, victim):
    patch.setattr(Source, "mask", lambda self: None)
    return victim


def documents_that_leak_through_the_convolution(patch, victim):
    honest = linear.short_conv

    def leaking(x_BTD, weight, bias=None, *, documents_BT=None, **options):
        return honest(x_BTD, weight, bias, documents_BT=None, **options)

    patch.setattr(linear, "short_conv", leaking)
    return victim


def tokens_ahead_that_read_their_own_target(patch, victim):
    honest = TokenAhead.forward
    patch.setattr(TokenAhead, "forward", lambda self, h, ahead, place: honest(self, h, ahead.roll(-1, 1), place))
    return victim


# ----------------------------------------------------------------------------------------------------------------------
# Attention


def a_scale_applied_twice(patch, victim):
    honest = AttentionModule.__init__

    def twice(self, spec, scope, factory):
        honest(self, spec, scope, factory)
        self.scale = self.scale**2

    patch.setattr(AttentionModule, "__init__", twice)
    return victim


def a_head_that_does_not_listen(patch, victim):
    honest = AttentionModule._to_own

    def deaf(self, q_BHTK, *rest):
        return honest(self, torch.cat([q_BHTK[:, :1] * 0, q_BHTK[:, 1:]], dim=1), *rest)

    patch.setattr(AttentionModule, "_to_own", deaf)
    return victim


def heads_that_start_as_an_argmax(patch, victim):
    honest = AttentionModule.__init__

    def sharp(self, spec, scope, factory):
        honest(self, spec, scope, factory)
        self.scale = self.scale * 1e6

    patch.setattr(AttentionModule, "__init__", sharp)
    return victim


def key_heads_in_the_wrong_order(patch, victim):
    honest = reference_backend.dense

    def mixed(q, k, v, request, **options):
        if q.shape[1] != k.shape[1]:
            k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
        return honest(q, k, v, request, **options)

    patch.setattr(reference_backend, "dense", mixed)
    return victim


def a_sink_that_takes_nothing(patch, victim):
    patch.setattr(reference_backend, "sink_share", lambda lse, sink: torch.ones_like(lse))
    return victim


# ----------------------------------------------------------------------------------------------------------------------
# Decoding


def another_pairing_while_decoding(patch, victim):
    honest = rope.apply_rotary

    def paired(x, cos, sin, pairing="halves"):
        return honest(x, cos, sin, "interleaved" if x.shape[2] == 1 else pairing)

    patch.setattr(rope, "apply_rotary", paired)
    return victim


def a_ring_overwritten_one_step_early(patch, victim):
    honest = KeyValueStore._append

    def early(self, rows, new, start):
        if self.plan.ring == 8 and start:
            for store in self.slots.values():
                store[rows, :, (start + 1) % 8] = 0
        honest(self, rows, new, start)

    patch.setattr(KeyValueStore, "_append", early)
    return victim


def a_reset_that_keeps_one_position(patch, victim):
    honest = Cache.reset

    def late(self, rows=None):
        honest(self, rows)
        for row in range(len(self.lengths)) if rows is None else rows:
            self.lengths[row] = 1

    patch.setattr(Cache, "reset", late)
    return victim


def a_state_that_is_not_reset(patch, victim):
    patch.setattr(RecurrentState, "begin", lambda self: None)
    return victim


# ----------------------------------------------------------------------------------------------------------------------
# Wiring, learning, first weights


def a_dropped_residual(patch, victim):
    honest = LayerModule._add

    def dropped(self, x_BTD, name, sublayer):
        return honest(self, x_BTD, name, sublayer) - (x_BTD if name == "ffn" else 0)

    patch.setattr(LayerModule, "_add", dropped)
    return victim


def a_branch_scaled_twice(patch, victim):
    honest = LayerModule._scaled
    patch.setattr(LayerModule, "_scaled", lambda self, y: honest(self, honest(self, y)))
    return victim


def a_stream_that_stops_gradients(patch, victim):
    honest = LayerModule._add

    def stopped(self, x_BTD, name, sublayer):
        return honest(self, x_BTD, name, sublayer) - x_BTD + x_BTD.detach()

    patch.setattr(LayerModule, "_add", stopped)
    return victim


def a_loss_shifted_by_one(patch, victim):
    honest = LanguageModelHeadModule.loss

    def shifted(self, h_ND, targets_N, table_VD, *, per_token=False):
        return honest(self, h_ND, targets_N.roll(-1), table_VD, per_token=per_token)

    patch.setattr(LanguageModelHeadModule, "loss", shifted)
    return victim


def a_tied_head_with_a_copy_of_its_own(patch, victim):
    honest = build.__globals__["initialise"]

    def copying(model, seed):
        honest(model, seed)
        model.head.copy = model.embedding.tokens.weight.detach().clone()

    honest_forward = LanguageModelHeadModule.forward
    patch.setitem(build.__globals__, "initialise", copying)
    patch.setattr(
        LanguageModelHeadModule, "forward", lambda self, h, table: honest_forward(self, h, self.copy.to(table))
    )
    return victim


def variances_taken_for_deviations(patch, victim):
    honest = inits._draw
    patch.setattr(inits, "_draw", lambda parameter, std, generator: honest(parameter, std**2, generator))
    return victim


def norms_that_pass_everything(patch, victim):
    patch.setattr(RMSNormModule, "forward", lambda self, x: x * self.weight)
    patch.setattr(RMSNormModule, "fork", lambda self, x: (x, x * self.weight))
    return victim


def noise_while_training(patch, victim):
    honest = RMSNormModule.fork

    def noisy(self, x):
        x, h = honest(self, x)
        return x, h + 1e-4 * torch.rand_like(h) if self.training else h

    patch.setattr(RMSNormModule, "fork", noisy)
    return victim


def a_favoured_first_row(patch, victim):
    honest = LanguageModelHeadModule.forward

    def favouring(self, h, table):
        first = torch.arange(h.shape[0], device=h.device) == 0
        return honest(self, h, table) + (1e-3 * first * (h.shape[0] > 1))[:, None, None]

    patch.setattr(LanguageModelHeadModule, "forward", favouring)
    return victim


# ----------------------------------------------------------------------------------------------------------------------
# Routers


def scores_in_half_precision(patch, victim):
    for module in (softmax, sigmoid):
        patch.setattr(module, "scores_of", lambda x_ND, weight_ED: F.linear(x_ND, weight_ED).to(torch.float64))
    return victim


def gates_that_do_not_add_up(patch, victim):
    honest = SigmoidRouterModule.forward

    def bare(self, x_BTD, place):
        kept, self.spec = self.spec, replace(self.spec, renormalise=False)
        try:
            return honest(self, x_BTD, place)
        finally:
            self.spec = kept

    patch.setattr(SigmoidRouterModule, "forward", bare)
    return victim


def a_bias_that_is_ignored(patch, victim):
    patch.setattr(SigmoidRouterModule, "_choose", lambda self, scores_NE: scores_NE.topk(self.top_k, dim=-1).indices)
    return victim


def a_bias_that_runs_away(patch, victim):
    honest = SigmoidRouterModule.after_step

    def wrong_way(self):
        before = self.bias.clone()
        honest(self)
        self.bias.copy_(2 * before - self.bias)

    patch.setattr(SigmoidRouterModule, "after_step", wrong_way)
    return victim


def a_bias_that_is_never_updated(patch, victim):
    honest = SigmoidRouterModule.after_step

    def idle(self):
        before = self.bias.clone()
        honest(self)
        self.bias.copy_(before)

    patch.setattr(SigmoidRouterModule, "after_step", idle)
    return victim


# ----------------------------------------------------------------------------------------------------------------------
# Numbers at their limits


def a_gate_that_remembers_more_with_time(patch, victim):
    honest = fox.cumulative_decay
    patch.setattr(fox, "cumulative_decay", lambda *given, **options: -honest(*given, **options))
    return victim


def a_softplus_that_overflows(patch, victim):
    class Naive:
        softplus = staticmethod(lambda x: torch.log1p(torch.exp(x)))

    patch.setattr(mamba2, "F", Naive)
    return victim


def angles_in_fp32(patch, victim):
    def coarse(spec, width, positions, dtype):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        frequencies = torch.tensor(spec.frequencies(width), dtype=torch.float32)
        angles = (positions.float().unsqueeze(-1) * frequencies).double()
        angles = angles.unsqueeze(1) if positions.dim() == 2 else angles
        return angles.cos().to(wide), angles.sin().to(wide)

    patch.setattr(rope, "rotary_tables", coarse)
    return victim


def a_mutant(plant, text: str, by: str, *also: str) -> Mutant:
    """A line of the table below."""
    return Mutant(plant=plant, spec=text, by=by, also=frozenset(also))


DECODING = ("adversarial", "length-stress")
"""They decode too."""

PLANTED = {
    "a window one too short": a_mutant(a_window_of_one_less, SPEC, "attention-pattern"),
    "a norm over time": a_mutant(
        a_norm_over_time,
        PLAIN,
        "future-leak",
        *("receptive-field", "cached-decode", "padding-invariance", "packed-documents", "gradients", *DECODING),
    ),
    "keys of the wrong layer": a_mutant(
        keys_of_the_wrong_layer, LENDING, "receptive-field", "cached-decode", *DECODING
    ),
    "padding of the source is read": a_mutant(a_padded_source_that_is_read, TRANSLATING, "padding-invariance"),
    "a convolution across documents": a_mutant(
        documents_that_leak_through_the_convolution, STATE, "packed-documents", "padding-invariance"
    ),
    "prediction ahead reads its target": a_mutant(tokens_ahead_that_read_their_own_target, AHEAD, "tokens-ahead"),
    "the softmax scale twice": a_mutant(a_scale_applied_twice, PLAIN, "attention-distribution"),
    "a head that hears nothing": a_mutant(a_head_that_does_not_listen, PLAIN, "attention-distribution"),
    "heads that start as an argmax": a_mutant(
        heads_that_start_as_an_argmax, PLAIN, "attention-distribution", "gradients", "bf16"
    ),
    "key heads mixed up": a_mutant(key_heads_in_the_wrong_order, PLAIN, "backends"),
    "a sink counted among the keys": a_mutant(a_sink_that_takes_nothing, SINKS, "attention-pattern", "backends"),
    "another RoPE pairing in decode": a_mutant(another_pairing_while_decoding, PLAIN, "cached-decode", *DECODING),
    "a ring overwritten early": a_mutant(a_ring_overwritten_one_step_early, SPEC, "cached-decode", *DECODING),
    "a wrong position after reset": a_mutant(a_reset_that_keeps_one_position, PLAIN, "cached-decode"),
    "a state that is not reset": a_mutant(a_state_that_is_not_reset, STATE, "cached-decode"),
    "a dropped residual": a_mutant(a_dropped_residual, PLAIN, "residual", "bf16"),
    "a branch scaled twice": a_mutant(a_branch_scaled_twice, BRANCHED, "residual"),
    "a gradient stopped in one branch": a_mutant(a_stream_that_stops_gradients, PLAIN, "derivative"),
    "a loss shifted by one": a_mutant(a_loss_shifted_by_one, PLAIN, "loss"),
    "a tie undone by loading": a_mutant(a_tied_head_with_a_copy_of_its_own, PLAIN, "round-trip", "loss"),
    "no square root in the init": a_mutant(variances_taken_for_deviations, PLAIN, "init-scale"),
    "norms that pass everything": a_mutant(
        norms_that_pass_everything,
        DEEP,
        "init-scale",
        *("attention-pattern", "attention-distribution", "init-loss", "overfits", "adversarial"),
    ),
    "noise while training": a_mutant(noise_while_training, PLAIN, "determinism", "round-trip"),
    "a favoured first row": a_mutant(
        a_favoured_first_row, PLAIN, "batch-invariance", "cached-decode", "packed-documents"
    ),
    "a bf16 router": a_mutant(scores_in_half_precision, BALANCED, "routing"),
    "gates that do not add up": a_mutant(gates_that_do_not_add_up, BALANCED, "routing"),
    "an expert bias that is ignored": a_mutant(a_bias_that_is_ignored, BALANCED, "routing"),
    "an expert bias that runs away": a_mutant(a_bias_that_runs_away, BALANCED, "routing"),
    "an expert bias that never moves": a_mutant(a_bias_that_is_never_updated, BALANCED, "routing"),
    "a decay gate of the wrong sign": a_mutant(a_gate_that_remembers_more_with_time, FORGETTING, "adversarial"),
    "a softplus that overflows": a_mutant(a_softplus_that_overflows, STATE, "adversarial"),
    "angles in fp32": a_mutant(angles_in_fp32, LONG, "length-stress"),
}
"""What is broken -> how, where, and the probes that turn red."""
