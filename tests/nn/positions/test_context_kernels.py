"""The algebra under the content-dependent positions, and the bounds they promise."""

from __future__ import annotations

from math import e, exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.nn import Signals, build
from vitruvius.nn.backends import Request
from vitruvius.nn.backends.scores import document_runs
from vitruvius.nn.mixers.keyvalue import Readable
from vitruvius.nn.place import Place
from vitruvius.nn.positions.blocks import grouped_scores
from vitruvius.nn.positions.fox import ForgettingPositionModule
from vitruvius.nn.positions.path_scores import Chunks, one_by_one
from vitruvius.nn.positions.running import sums_in_runs
from vitruvius.patterns import causal
from vitruvius.spec import read_text
from vitruvius.spec.node import Heads, Scope
from vitruvius.spec.positions.fox import ForgettingPosition, gate_start

FP64 = torch.float64


def _path_inputs(length: int, width: int, *, groups: int = 1, queries: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=FP64)

    w = torch.nn.functional.normalize(draw(1, groups, length, width), dim=-1)
    beta = 2 * draw(1, groups, length).sigmoid()
    q, k = draw(1, queries, length, width), draw(1, groups, length, width)
    unit = torch.nn.functional.normalize
    return unit(q, dim=-1), unit(k, dim=-1), w, beta


def _by_products(q_TK, k_TK, w_TK, beta_T):
    """q_i . H_i ... H_{j+1} k_j, one matrix after another."""
    length, width = q_TK.shape
    maps = [torch.eye(width, dtype=FP64) - b * torch.outer(w, w) for w, b in zip(w_TK, beta_T, strict=True)]
    scores = torch.zeros(length, length, dtype=FP64)
    for j in range(length):
        key = k_TK[j]
        for i in range(j, length):
            key = maps[i] @ key if i > j else key
            scores[i, j] = q_TK[i] @ key
    return scores


def test_the_closed_form_of_path_is_the_product_of_its_maps_to_the_last_digits() -> None:
    q, k, w, beta = (x[0, 0] for x in _path_inputs(48, 16))
    scaled = beta.unsqueeze(-1) * w
    inverse = torch.linalg.inv(torch.eye(48, dtype=FP64) + (scaled @ w.T).tril(-1))
    closed = (q @ k.T).tril() - (q @ w.T).tril() @ inverse @ (scaled @ k.T).tril(-1)
    assert (closed - _by_products(q, k, w, beta)).abs().max() < 3e-15


def test_the_readable_path_is_the_product_of_its_maps() -> None:
    q, k, w, beta = _path_inputs(30, 8)
    scores = one_by_one(k, w, beta, q)[0, 0].tril()
    assert (scores - _by_products(q[0, 0], k[0, 0], w[0, 0], beta[0, 0])).abs().max() < 3e-15


def test_keys_mapped_to_the_end_of_a_sequence_are_those_that_stepping_leaves() -> None:
    _, k, w, beta = _path_inputs(300, 8, groups=2)
    end, total = Chunks.of(k, w, beta).at_end()
    moved = k.clone()
    for t in range(300):
        along = (moved[:, :, :t] * w[:, :, t : t + 1]).sum(-1, keepdim=True) * beta[:, :, t, None, None]
        moved[:, :, :t] -= along * w[:, :, t : t + 1]
    assert (end - moved).abs().max() < 1e-13
    product = torch.eye(8, dtype=FP64)
    for t in range(300):
        product = product - beta[0, 0, t] * torch.outer(w[0, 0, t], w[0, 0, t]) @ product
    assert (total[0, 0] - product).abs().max() < 1e-13


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**16))
@settings(max_examples=25)
def test_sums_restart_at_each_run_and_owe_nothing_to_the_one_before(sizes, seed) -> None:
    steps = torch.randn(1, sum(sizes), 3, generator=torch.Generator().manual_seed(seed), dtype=FP64)
    documents = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).unsqueeze(0)
    found = sums_in_runs(steps, document_runs(documents))
    expected = torch.cat([part.cumsum(1) for part in steps.split(sizes, dim=1)], dim=1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_a_run_keeps_its_digits_after_one_with_a_huge_sum() -> None:
    steps = torch.cat([torch.full((1, 50, 1), 1e6), torch.full((1, 50, 1), 1e-3)], dim=1)
    runs = torch.tensor([[0] * 50 + [1] * 50])
    assert torch.allclose(sums_in_runs(steps, runs)[0, 50:, 0], torch.full((50,), 1e-3).cumsum(0), rtol=1e-6)


@pytest.mark.parametrize("horizon", [2.0, 128.0, 1e5])
def test_a_fresh_gate_has_let_go_of_all_but_one_in_e_after_its_horizon(horizon) -> None:
    assert torch.tensor(gate_start(horizon), dtype=FP64).sigmoid().item() ** horizon == pytest.approx(1 / e, rel=1e-9)


# ----------------------------------------------------------------------------------------------------------------------
# Eviction


class _Store:
    """What `prune` asks of a cache."""

    def __init__(self, groups: int, rows: int) -> None:
        self.running = {"longest_key": torch.zeros(rows, groups, dtype=FP64)}
        self.device = torch.device("cpu")
        self.step = type("Step", (), {"length": 1, "counts": [1] * rows})()


@given(
    keys=st.integers(1, 80),
    rate=st.sampled_from([0.01, 0.3, 2.0]),
    size=st.sampled_from([0.1, 1.0, 4.0]),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_skipped_keys_weigh_at_most_e_to_the_minus_ten_together(keys, rate, size, masked, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, heads, groups, width = 2, 4, 2, 6
    q = size * torch.randn(rows, heads, 1, width, generator=generator, dtype=FP64)
    k = size * torch.randn(rows, groups, keys, width, generator=generator, dtype=FP64)
    c = -(rate * torch.rand(rows, heads, keys, generator=generator, dtype=FP64)).cumsum(-1)
    mask = torch.rand(rows, 1, 1, keys, generator=generator) < 0.7 if masked else None
    if mask is not None:
        mask[..., -1] = torch.rand(rows, 1, 1, generator=generator) < 0.5  # a query need not see itself
        mask[..., 0] |= ~mask.any(-1)
    order = torch.randperm(keys, generator=generator)
    tensors = {"k": k[:, :, order], "v": k[:, :, order], "decay": c[:, :, order].unsqueeze(-1)}
    readable = Readable(tensors=tensors, positions=order, seen=None if mask is None else mask[..., order])
    place = Place(positions=torch.tensor([keys - 1]), signals=Signals())
    request = Request(pattern=causal, scale=0.7, place=place, decay=(c[:, :, -1:], c[:, :, -1:]))
    module = _fox(heads, groups, width)
    store = _Store(groups, rows)
    for j in range(keys):
        kept = module.prune(q, k[:, :, j : j + 1], readable, request, store)
    live = int(place.signals.metrics["live_keys"][-1])
    assert live == kept.positions.shape[-1] or live == keys
    scores = grouped_scores(q, readable.k_BGSK) * 0.7 + (c[:, :, -1:, None] - tensors["decay"].transpose(2, 3))
    if readable.mask is not None:
        scores = scores.masked_fill(~readable.mask, -torch.inf)
    weights = scores.softmax(-1)
    dropped = torch.isin(readable.positions, kept.positions, invert=True)
    assert weights[..., dropped].sum(-1).max() <= exp(-10)


def _fox(heads: int, groups: int, width: int) -> ForgettingPositionModule:
    return ForgettingPositionModule(
        ForgettingPosition(evict="negligible"),
        Heads(queries=heads, groups=groups, width=width),
        Scope(width=16, vocab_size=31, context=64, depth=1),
        {"device": torch.device("cpu"), "dtype": FP64},
    )


SPEC = """
name: test
vocab_size: 31
width: 16
context: 400
blocks: {{layer: {{mixer: {{kind: attention, heads: 4, kv_heads: 2, sees: "{sees}", position: {position}}}}}}}
layers: layer*2
"""


@pytest.mark.parametrize("sees", ["causal", "causal & sliding(90)", "causal & (sliding(60) | global(every=7))"])
@torch.inference_mode()
def test_a_forgetful_model_reads_few_keys_and_says_the_same(sees) -> None:
    tokens = torch.randint(0, 31, (2, 200), generator=torch.Generator().manual_seed(1))
    logits, live = {}, {}
    for evict in ("never", "negligible"):
        text = SPEC.format(sees=sees, position=f"{{kind: fox, horizon: 2, evict: {evict}}}")
        model = build(read_text(text).architecture, dtype=FP64, seed=5).eval()
        cache, signals = model.cache(2, capacity=200), Signals()
        parts = [model(tokens[:, :100], cache=cache)]
        parts += [model(tokens[:, t : t + 1], cache=cache, signals=signals) for t in range(100, 200)]
        logits[evict], live[evict] = torch.cat(parts, dim=1), signals.metrics.get("live_keys")
    assert live["never"] is None
    # A gate of e^(-1/2) a token is far below e^-(10 + ln L) after 2 * (10 + ln 200) = 31 of them, and M is small.
    assert max(live["negligible"]) < 2 * (10 + log(200)) + 8
    assert min(live["negligible"]) > 5
    difference = (logits["never"] - logits["negligible"]).abs().max()
    assert 0 < difference < 5 * exp(-10) * logits["never"].abs().max()


@torch.inference_mode()
def test_a_model_that_never_forgets_skips_nothing() -> None:
    text = SPEC.format(sees="causal", position="{kind: fox, horizon: 100000, evict: negligible}")
    model = build(read_text(text).architecture, dtype=FP64, seed=5).eval()
    tokens = torch.randint(0, 31, (1, 90), generator=torch.Generator().manual_seed(1))
    cache, signals = model.cache(1, capacity=90), Signals()
    found = torch.cat([model(tokens[:, t : t + 1], cache=cache, signals=signals) for t in range(90)], dim=1)
    assert torch.allclose(found, model(tokens), rtol=0, atol=1e-9)
    assert [int(n) for n in signals.metrics["live_keys"][::2]] == list(range(1, 91))


@torch.inference_mode()
def test_rows_that_start_over_forget_the_longest_key_of_the_old_ones() -> None:
    text = SPEC.format(sees="causal", position="{kind: fox, evict: negligible}")
    model = build(read_text(text).architecture, dtype=FP64, seed=5).eval()
    cache = model.cache(2, capacity=30)
    tokens = torch.randint(0, 31, (2, 10), generator=torch.Generator().manual_seed(1))
    model(tokens, cache=cache)
    store = cache.layers[0].mixer
    assert store.running["longest_key"].min() > 0
    store.running["longest_key"].fill_(1e9)
    cache.reset([1])
    model(tokens[:, :1], cache=cache)
    assert store.running["longest_key"][0].min() == 1e9
    assert store.running["longest_key"][1].max() < 1e3


@torch.inference_mode()
def test_differential_attention_skips_what_both_of_its_maps_have_forgotten() -> None:
    tokens = torch.randint(0, 31, (1, 160), generator=torch.Generator().manual_seed(1))
    logits = []
    for evict in ("never", "negligible"):
        mixer = f"{{kind: differential, heads: 2, sees: causal, position: {{kind: fox, horizon: 2, evict: {evict}}}}}"
        text = SPEC.format(sees="causal", position="fox").replace(
            '{kind: attention, heads: 4, kv_heads: 2, sees: "causal", position: fox}', mixer
        )
        model = build(read_text(text).architecture, dtype=FP64, seed=5).eval()
        cache, signals = model.cache(1, capacity=160), Signals()
        parts = [model(tokens[:, :100], cache=cache)]
        parts += [model(tokens[:, t : t + 1], cache=cache, signals=signals) for t in range(100, 160)]
        logits.append(torch.cat(parts, dim=1))
    assert max(signals.metrics["live_keys"]) < 100
    assert 0 < (logits[0] - logits[1]).abs().max() < 10 * exp(-10) * logits[0].abs().max()


def test_latent_attention_keeps_no_keys_whose_norms_could_bound_anything() -> None:
    position = "{kind: fox, evict: negligible}"
    mixer = f"{{kind: mla, heads: 2, kv_rank: 4, nope_width: 4, rope_width: 0, value_width: 4, position: {position}}}"
    text = SPEC.format(sees="causal", position="fox").replace(
        '{kind: attention, heads: 4, kv_heads: 2, sees: "causal", position: fox}', mixer
    )
    with pytest.raises(SpecError, match="norms of the keys"):
        read_text(text)


@pytest.mark.parametrize("kind", ["cope", "path"])
def test_a_long_prompt_never_needs_the_mask_of_all_pairs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"""
name: long
vocab_size: 13
width: 16
context: 400
blocks:
  a: {{mixer: {{kind: attention, heads: 2, sees: causal & sliding(90), position: {kind}}}}}
layers: a
"""
    model = build(read_text(text).architecture, dtype="fp64")
    tokens = torch.randint(13, (1, 400), generator=torch.Generator().manual_seed(0))
    rows: list[int] = []
    honest = Readable.mask_of

    def heard(self: Readable, queries: slice) -> torch.Tensor | None:
        mask = honest(self, queries)
        rows.append(0 if mask is None else mask.shape[-2])
        return mask

    monkeypatch.setattr(Readable, "mask_of", heard)
    with torch.no_grad():
        cache = model.cache(1, capacity=400)
        found = model(tokens, cache=cache)
        torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-9)
    assert 0 < max(rows) <= 128
