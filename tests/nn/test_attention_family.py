"""What sets the forms of attention apart, each against its formula, and what they share across layers."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch
from torch import nn

from vitruvius.checks import check
from vitruvius.nn import Signals, build
from vitruvius.nn.place import Place
from vitruvius.report.diagram import Heads, diagram_of
from vitruvius.report.formulas import explain
from vitruvius.sizing import count_parameters, kv_cache_bytes, size
from vitruvius.spec import read_text, resolve

WIDTH, LENGTH = 32, 24


def architecture(*blocks: str, layers: str = "a*2", context: int = 48):
    named = "\n".join(f"  {name}: {text}" for name, text in zip("abc", blocks, strict=False))
    text = f"name: tiny\nvocab_size: 61\nwidth: {WIDTH}\ncontext: {context}\nblocks:\n{named}\nlayers: {layers}\n"
    return read_text(text).architecture


def attention(fields: str = "", *, sees: str = "causal") -> str:
    more = f", {fields}" if fields else ""
    return f'{{mixer: {{kind: attention, heads: 4, kv_heads: 2, sees: "{sees}"{more}}}}}'


def moved(model, seed: int = 5):
    """The model with every weight moved, so that nothing hides behind a first value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)
    return model


def tokens(rows: int = 2, length: int = LENGTH):
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(3))


def hidden(length: int = LENGTH):
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def here(length: int = LENGTH, **fields) -> Place:
    return Place(positions=torch.arange(length), **fields)


def by_hand(mixer, x, *, scale: float, cap: float | None = None, sink=None, seen=None):
    """Attention head by head, in the open: [B, T, H, K]."""
    q, k, v = (m(x).unflatten(2, (-1, mixer.head_width)) for m in (mixer.q, mixer.k, mixer.v))
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if seen is None else seen
    weights = scores.masked_fill(~seen, -torch.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if sink is not None:
        total = total + sink.view(-1, 1, 1).exp()
    return torch.einsum("bhts,bshk->bthk", weights / total, v)


# Sinks, caps, gates


@pytest.mark.parametrize("sinks", ["learned", "off-by-one"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@torch.no_grad()
def test_a_sink_is_a_score_beside_those_of_the_keys(sinks, backend):
    mixer = moved(build(architecture(attention(f"sinks: {sinks}")), dtype="fp64")).layers[0].mixer
    x = hidden()
    sink = mixer.sinks if sinks == "learned" else torch.zeros(4, dtype=torch.float64)
    expected = mixer.out(by_hand(mixer, x, scale=8**-0.5, sink=sink).flatten(2))
    assert (mixer(x, here(backend=backend)) - expected).abs().max() < 1e-9
    plain = mixer.out(by_hand(mixer, x, scale=8**-0.5).flatten(2))
    assert (plain - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_cap_bends_the_scores():
    mixer = moved(build(architecture(attention("logit_cap: 1.5, score_scale: 2")), dtype="fp64")).layers[0].mixer
    x = hidden()
    expected = mixer.out(by_hand(mixer, x, scale=2.0, cap=1.5).flatten(2))
    assert (mixer(x, here()) - expected).abs().max() < 1e-9


@pytest.mark.parametrize("gate", ["headwise", "elementwise"])
@torch.no_grad()
def test_a_gate_multiplies_what_each_head_found(gate):
    mixer = moved(build(architecture(attention(f"gate: {gate}, bias: qkv")), dtype="fp64")).layers[0].mixer
    x = hidden()
    open_ = torch.sigmoid(mixer.gate(x))
    open_ = open_.unsqueeze(-1) if gate == "headwise" else open_.unflatten(2, (4, 8))
    expected = mixer.out((by_hand(mixer, x, scale=8**-0.5) * open_).flatten(2))
    assert (mixer(x, here()) - expected).abs().max() < 1e-9
    assert mixer.gate.weight.shape[0] == (4 if gate == "headwise" else 32)


def test_rows_with_a_sink_sum_to_less_than_one_and_the_probe_knows():
    report = check(architecture(attention("sinks: off-by-one"), attention(), layers="a b"), only=["attention-pattern"])
    assert report.passed, str(report)


def test_the_probe_goes_red_where_a_declared_sink_takes_nothing(monkeypatch):
    from vitruvius.nn.mixers.attention import AttentionModule

    honest = AttentionModule._request

    def forgetful(self, *given):
        return replace(honest(self, *given), sink_H=None)

    monkeypatch.setattr(AttentionModule, "_request", forgetful)
    report = check(architecture(attention("sinks: learned")), only=["attention-pattern"])
    assert not report.passed
    assert "sinks take no share" in report["attention-pattern"].detail


# Keys and values of other layers


def kv_bytes(architecture_, capacity: int) -> int:
    return kv_cache_bytes(resolve(architecture_), capacity, 1, "bf16")


def test_a_layer_that_reads_other_keys_has_no_maps_and_no_cache_of_its_own():
    own = architecture(attention("qk_norm: rmsnorm"), attention("qk_norm: rmsnorm"), layers="a b")
    shared = architecture(attention("qk_norm: rmsnorm"), attention("qk_norm: rmsnorm, kv_from: a"), layers="a b")
    names = set(resolve(own).tensors()) - set(resolve(shared).tensors())
    assert names == {f"layers.1.mixer.{name}.weight" for name in ("k", "v", "k_norm")}
    assert kv_bytes(shared, 40) * 2 == kv_bytes(own, 40)
    assert build(shared).cache(1, capacity=40).nbytes == 2 * kv_bytes(shared, 40)  # fp32


@torch.no_grad()
def test_what_is_read_are_the_keys_and_values_of_the_nearest_earlier_layer():
    """Layers a, b, a, b: the second b reads the second a."""
    text = attention(), attention("kv_from: a", sees="causal & sliding(5)")
    model = moved(build(architecture(*text, layers="(a b)*2"), dtype="fp64"))
    graph = model.graph
    assert [layer.keys_from for layer in graph.layers] == [None, 0, None, 2]
    seen = graph.layers[1].mixer.pattern().allows(torch.arange(LENGTH).unsqueeze(1), torch.arange(LENGTH))
    lender, reader, x, other = model.layers[2].mixer, model.layers[3].mixer, hidden(), hidden() * 0.5 + 1
    place = here(layer=graph.layers[2])
    lender(x, place)
    k, v = place.passed.keys[2]
    assert k.shape == (2, 2, LENGTH, 8)

    class Borrowed(nn.Module):
        head_width, q = 8, reader.q
        k = staticmethod(lambda _: k.transpose(1, 2).flatten(2))
        v = staticmethod(lambda _: v.transpose(1, 2).flatten(2))

    expected = reader.out(by_hand(Borrowed(), other, scale=8**-0.5, seen=seen).flatten(2))
    found = reader(other, here(layer=graph.layers[3], passed=place.passed))
    assert (found - expected).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("lender", "reader", "layers"),
    [
        ("causal & sliding(4)", "causal", "(a b)^2"),
        ("causal", "causal & sliding(3)", "(a b*2)*2"),
        ("causal & sliding(4)", "causal & dilated(3, every=3)", "a b^3"),
        ("causal & sliding(3)", "causal & (sliding(2) | sinks(2) | global(every=5))", "a b"),
    ],
)
def test_a_reader_may_see_more_or_less_than_its_lender(lender, reader, layers):
    blocks = attention("position: rope", sees=lender), attention("position: rope, kv_from: a", sees=reader)
    names = ["cached-decode", "cache-bytes", "attention-pattern", "backends", "packed-documents", "gradients", "flops"]
    report = check(architecture(*blocks, layers=layers), only=names)
    assert report.passed, str(report)


def test_the_cache_of_a_lender_holds_what_its_farthest_reader_needs():
    narrow = architecture(attention(sees="causal & sliding(4)"))
    blocks = attention(sees="causal & sliding(4)"), attention("kv_from: a", sees="causal & sliding(9)")
    wide = architecture(*blocks, layers="a b")
    assert resolve(narrow).states(40)[0]["mixer.k"].shape[1] == 4
    assert resolve(wide).states(40)[0]["mixer.k"].shape[1] == 9


def test_the_bill_tells_lenders_from_other_layers_of_their_block():
    blocks = attention(sees="causal & sliding(4)"), attention("kv_from: a")
    tiny = architecture(*blocks, layers="a b a")
    bill = size(tiny)
    assert [(row.name, row.layers, row.kv_cache_bytes) for row in bill.layers] == [
        ("a", 1, 48 * 2 * 16 * 2),
        ("b", 1, 0),
        ("a", 1, 4 * 2 * 16 * 2),
    ]
    (cache,) = (amount for amount in explain(tiny, bill) if "cache" in amount.name)
    assert cache.value == bill.kv_cache_bytes == sum(row.layers * row.kv_cache_bytes for row in bill.layers)


def test_a_reader_of_a_reader_reads_from_whom_has_the_keys():
    blocks = attention(), attention("kv_from: a"), attention("kv_from: b", sees="causal & sliding(3)")
    tiny = architecture(*blocks, layers="a b c")
    assert [layer.keys_from for layer in resolve(tiny).layers] == [None, 0, 0]
    assert len(resolve(tiny).layers[0].scope.readers) == 2
    assert check(tiny, only=["cached-decode", "gradients"]).passed


@torch.no_grad()
def test_values_are_mixed_with_those_of_the_named_layer():
    model = moved(build(architecture(attention(), attention("value_from: a"), layers="a b*2"), dtype="fp64"))
    graph = model.graph
    assert [layer.values_from for layer in graph.layers] == [None, 0, 0]
    assert [sorted(layer.lends) for layer in graph.layers] == [["values"], [], []]
    lender, mixer, x, other = model.layers[0].mixer, model.layers[1].mixer, hidden(), hidden() * 0.5 + 1
    place = here(layer=graph.layers[0])
    lender(x, place)

    class Mixed(nn.Module):
        head_width, q, k = 8, mixer.q, mixer.k
        v = staticmethod(lambda y: mixer.value_mix[0] * mixer.v(y) + mixer.value_mix[1] * lender.v(x))

    expected = mixer.out(by_hand(Mixed(), other, scale=8**-0.5).flatten(2))
    found = mixer(other, here(layer=graph.layers[1], passed=place.passed))
    assert (found - expected).abs().max() < 1e-9
    assert not place.passed.keys  # nothing is kept that nobody reads


def test_mixed_values_start_half_and_half():
    mix = build(architecture(attention(), attention("value_from: a"), layers="a b")).layers[1].mixer.value_mix
    assert mix.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("weights", ["own", "shared"])
def test_layers_that_share_weights_read_each_from_its_own_neighbour(weights):
    reader = attention("value_from: a")[:-1] + f", weights: {weights}}}"
    tiny = architecture(attention(), reader, layers="(a b)*2")
    assert [layer.values_from for layer in resolve(tiny).layers] == [None, 0, None, 2]
    report = check(tiny, only=["cached-decode", "gradients", "batch-invariance"])
    assert report.passed, str(report)


# Open prefixes


@torch.no_grad()
def test_the_tokens_of_an_open_prefix_see_each_other_and_the_others_do_not():
    model = moved(build(architecture(attention("prefix: open", sees="causal & sliding(6)")), dtype="fp64"))
    ids, changed = tokens(1), tokens(1)
    changed[0, 7] = (changed[0, 7] + 1) % 61
    before, after = (model(each, prefix=[8]) for each in (ids, changed))
    differs = (before - after).abs().amax(-1)[0] > 1e-9
    assert differs[:8].all()
    later, late = ids.clone(), 12
    later[0, late] = (later[0, late] + 1) % 61
    assert ((model(later, prefix=[8]) - before).abs().amax(-1)[0] > 1e-9).tolist()[:late] == [False] * late
    assert torch.equal(model(ids), model(ids, prefix=[0]))


@torch.no_grad()
def test_a_prefix_enters_a_cache_whole_and_decoding_goes_on():
    blocks = attention("prefix: open", sees="causal & sliding(5)"), attention("kv_from: a, prefix: open")
    model = moved(build(architecture(*blocks, layers="a b"), dtype="fp64"))
    ids = tokens(2)
    full, cache = model(ids, prefix=[9, 9]), model.cache(2, capacity=LENGTH)
    parts = [model(ids[:, :9], cache=cache, prefix=[9, 9])]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(9, LENGTH)]
    assert (torch.cat(parts, dim=1) - full).abs().max() < 1e-9


# Latents

LATENT = "{mixer: {kind: mla, heads: 4, q_rank: 12, kv_rank: 16, nope_width: 8, rope_width: 4, value_width: 6, FIELDS}}"


def latent(fields: str = "position: rope") -> str:
    return LATENT.replace(", FIELDS", f", {fields}" if fields else "")


def test_deepseeks_cache_takes_1152_bytes_for_each_token_and_layer():
    widths = "kv_rank: 512, nope_width: 128, rope_width: 64, value_width: 128"
    full = architecture(f"{{mixer: {{kind: mla, heads: 128, q_rank: 1536, {widths}}}}}", layers="a")
    assert kv_bytes(full, 1000) == 1000 * 1152
    grouped = architecture("{mixer: {kind: attention, heads: 32, kv_heads: 8, head_width: 128}}", layers="a")
    assert kv_bytes(grouped, 1000) == 1000 * 4096


@pytest.mark.parametrize("sees", ["causal", "causal & sliding(5)", "causal & (sinks(2) | sliding(3))"])
@pytest.mark.parametrize("new", [1, 3])
@torch.no_grad()
def test_reading_the_latents_equals_making_keys_of_them(monkeypatch, sees, new):
    from vitruvius.spec.mixers.mla import LatentAttention

    model = moved(build(architecture(latent(f'position: rope, sees: "{sees}"')), dtype="fp64"))
    ids, logits = tokens(), {}
    full = model(ids)
    for name, most in (("expanded", 0), ("absorbed", 1000)):
        monkeypatch.setattr(LatentAttention, "absorbed_up_to", most)
        cache = model.cache(2, capacity=LENGTH)
        parts = [model(ids[:, i : i + new], cache=cache) for i in range(0, LENGTH, new)]
        logits[name] = torch.cat(parts, dim=1)
    assert (logits["absorbed"] - logits["expanded"]).abs().max() < 1e-9
    assert (logits["absorbed"] - full).abs().max() < 1e-9


@torch.no_grad()
def test_one_new_token_reads_the_latents_as_they_are(monkeypatch):
    from vitruvius.nn.mixers.mla import LatentAttentionModule

    calls = []
    absorbed = LatentAttentionModule._absorbed
    monkeypatch.setattr(
        LatentAttentionModule, "_absorbed", lambda self, *given: calls.append(given) or absorbed(self, *given)
    )
    model = moved(build(architecture(latent()), dtype="fp64"))
    cache = model.cache(2, capacity=LENGTH)
    model(tokens()[:, :20], cache=cache)
    assert not calls
    model(tokens()[:, 20:21], cache=cache)
    assert len(calls) == 2  # two layers


@torch.no_grad()
def test_a_map_that_something_else_has_replaced_is_called_and_not_taken_over():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = moved(build(architecture(latent()), dtype="fp64"))
    for layer in model.layers:
        layer.mixer.kv_up.__class__ = Doubled
    cache = model.cache(2, capacity=LENGTH)
    parts = [model(tokens()[:, i : i + 1], cache=cache) for i in range(LENGTH)]
    assert (torch.cat(parts, dim=1) - model(tokens())).abs().max() < 1e-9


def test_the_number_of_new_tokens_decides_where_both_ways_cost_the_same():
    """Per latent and head: making a key and a value and reading them, or reading the latent."""
    mixer = architecture(latent()).blocks["a"].mixer
    most, rank, nope, rope, value = mixer.absorbed_up_to, 16, 8, 4, 6
    costs = [(t * (2 * rank + rope), t * (nope + rope + value) + rank * (nope + value)) for t in (most, most + 1)]
    assert costs[0][0] <= costs[0][1]
    assert costs[1][0] > costs[1][1]


# Differences


@torch.no_grad()
def test_each_map_of_a_difference_is_heard_and_its_rows_sum_to_one():
    model = moved(build(architecture("{mixer: {kind: differential, heads: 2, position: rope}}"), dtype="fp64"))
    model.backend = "reference"
    heard = []
    model(tokens(), signals=Signals(attention=heard))
    assert [tuple(weights.shape) for weights in heard] == [(2, 4, LENGTH, LENGTH)] * 2
    assert all((weights.sum(-1) - 1).abs().max() < 1e-9 for weights in heard)


@torch.no_grad()
def test_lambda_starts_where_the_layer_says_even_when_weights_are_shared():
    model = build(architecture("{mixer: {kind: differential, heads: 2}}", layers="a^3"), dtype="fp64")
    mixer = model.layers[0].mixer
    assert model.layers[2].mixer is mixer
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        getattr(mixer, name).zero_()
    x = hidden()
    for layer in model.graph.layers:
        start = 0.8 - 0.6 * exp(-0.3 * layer.index)
        both = mixer._attend(
            *(
                m(x).unflatten(2, (-1, width)).transpose(1, 2)
                for m, width in ((mixer.q, 8), (mixer.k, 8), (mixer.v, 16))
            ),
            x,
            here(),
            None,
        )
        first, second = both.chunk(2, dim=1)
        expected = mixer.out(((1 - start) * mixer.head_norm((first - start * second).transpose(1, 2))).flatten(2))
        assert (mixer(x, here(layer=layer)) - expected).abs().max() < 1e-9


def test_a_difference_has_as_many_parameters_as_plain_attention_but_for_lambda_and_gains():
    plain = architecture("{mixer: {kind: attention, heads: 4, kv_heads: 2}}", layers="a")
    twofold = architecture("{mixer: {kind: differential, heads: 2, kv_heads: 1}}", layers="a")
    extra = count_parameters(resolve(twofold)).total - count_parameters(resolve(plain)).total
    assert extra == 4 * 8 + 16
    assert kv_bytes(plain, 10) == kv_bytes(twofold, 10)


# Whole contracts

VARIANTS = {
    "gate headwise": [attention("gate: headwise, position: rope")],
    "gate elementwise with biases": [attention("gate: elementwise, bias: all, qk_norm: layernorm")],
    "sinks over a dilation": [attention("sinks: learned, position: alibi", sees="causal & dilated(3, every=2)")],
    "off by one with forgetting": [attention("sinks: off-by-one, position: fox")],
    "cap": [attention("logit_cap: 3, bias: qkv", sees="causal & (sliding(3) | sinks(2))")],
    "keys shared": [attention("position: t5"), attention("kv_from: a, position: alibi, sinks: learned, bias: all")],
    "values shared": [attention("position: rope, bias: qkv"), attention("value_from: a, gate: headwise")],
    "latents": [latent("position: {kind: rope, pairing: interleaved}")],
    "latents without rotation": [latent('position: alibi, norm: layernorm, sees: "causal & sliding(5)"')],
    "latents that forget": [latent("position: fox")],
    "differential": ["{mixer: {kind: differential, heads: 2, kv_heads: 1, position: rope, bias: all}}"],
    "differential in a window": ['{mixer: {kind: differential, heads: 2, position: t5, sees: "causal & sliding(4)"}}'],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_keeps_every_contract(name):
    blocks = [f"{text[:-1]}, ffn: {{kind: swiglu, hidden: 48}}}}" for text in VARIANTS[name]]
    report = check(architecture(*blocks, layers="(a b)*2" if len(blocks) > 1 else "a*2"))
    assert report.passed, str(report)


# Drawings


def test_a_drawing_says_what_sets_an_attention_apart():
    blocks = attention("gate: headwise, sinks: learned, logit_cap: 50"), attention("kv_from: a, prefix: open")
    first, second = (design.boxes[0] for design in diagram_of(architecture(*blocks, layers="a b")).designs)
    assert {"scores capped at 50", "a learned sink per head", "headwise output gate"} <= set(first.details)
    assert {"keys and values of a", "open prefix"} <= set(second.details)
    assert first.art == Heads(queries=4, groups=2)


def test_a_drawing_of_latents_shows_one_of_them_under_all_heads():
    (design,) = diagram_of(architecture(latent(), layers="a")).designs
    assert design.boxes[0].art == Heads(queries=4, groups=1)
    assert "keys and values from 16" in design.boxes[0].details
