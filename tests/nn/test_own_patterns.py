"""Patterns of one's own, from the text of a spec to the module that runs them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitruvius.checks import check
from vitruvius.nn import build
from vitruvius.patterns import NAMED, parse, register_predicate, unregister
from vitruvius.report.bill import bill_text
from vitruvius.sizing import size
from vitruvius.spec import read_text, shrink, to_yaml

SPEC = """
name: own
vocab_size: 61
width: 16
context: CONTEXT
blocks:
  layer:
    mixer: {kind: attention, heads: 2, sees: "SEES", position: rope}
    ffn: {kind: swiglu, hidden: 16}
layers: layer*2
"""
PROBES = ["attention-pattern", "backends", "cached-decode", "cache-bytes", "flops", "packed-documents", "future-leak"]


def architecture(sees: str, context: int = 48):
    return read_text(SPEC.replace("SEES", sees).replace("CONTEXT", str(context))).architecture


@pytest.fixture
def tree():
    def ancestors(q, k, depth):
        """The query's ancestors in a binary tree laid out level by level."""
        allowed = q == k
        for level in range(1, depth + 1):
            allowed = allowed | ((q + 1) // 2**level == k + 1)
        return allowed

    register_predicate("tree", ancestors, last_reader=lambda k, depth: 2**depth * (k + 2))
    yield
    unregister("tree")


@pytest.mark.parametrize(
    "sees",
    [
        "causal & where((q - k) % 7 == 3 | q == k)",
        "causal & where(q // 8 - k // 8 <= 1)",
        "causal & (sliding(5) | where(k % 4 == 3 & k < q // 4 * 4 & q // 4 - k // 4 <= 3))",
        "causal & (where(q * k % 5 == 1) | sinks(2) | dilated(3, every=4))",
        "causal & (where(k % (q // 8 + 1) == 0) | sliding(1)) & where(q - k < 20)",
        "causal & tree(depth=3)",
        "causal & (tree(2) | global(every=9))",
    ],
)
def test_every_probe_passes_on_a_pattern_of_ones_own(tree, sees):
    report = check(architecture(sees), only=PROBES)
    assert report.passed, str(report)


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["(q - k) % M == R", "(q * R + k * S) % M < S", "q // M - k // M <= 1", "R * k >= q or k % M == R"])
    | st.just("(q + 1) // M == k + 1"),
    st.tuples(st.integers(2, 7), st.integers(0, 7), st.integers(1, 7)),
    st.sampled_from(["causal & (where(W) | sliding(1))", "causal & where(W or q == k) & sliding(11)"]),
)
def test_decoding_from_the_cache_equals_the_whole_pass(text, numbers, around):
    for letter, number in zip("MRS", numbers, strict=True):
        text = text.replace(letter, str(number))
    report = check(architecture(around.replace("W", text)), only=["cached-decode", "attention-pattern", "flops"])
    assert report.passed, str(report)


def test_the_text_survives_writing_and_reading(tree):
    for sees in ("causal & where((q - k) % 7 == 3 | q == k)", "causal & tree(depth=3)"):
        given = architecture(sees)
        assert given.blocks["layer"].mixer.sees == sees
        assert read_text(to_yaml(given)).architecture == given


def test_a_wide_condition_is_probed_through_its_twin():
    full = architecture("causal & where(q // 4096 - k // 4096 <= 1)", context=65_536)
    twin = shrink(full)
    window = parse(twin.blocks["layer"].mixer.sees).widest_window
    assert twin.context < 200
    assert 3 * window <= twin.context
    assert check(full, only=["cached-decode", "attention-pattern"]).passed


def test_the_bill_of_a_pattern_of_ones_own_is_exact(tree):
    bill, plain = (size(architecture(sees, 4096)) for sees in ("causal & tree(depth=3)", "causal"))
    pairs = sum(len({k for j in range(4) if (k := (q + 1) // 2**j - 1) >= 0}) for q in range(4096))
    layers, heads, per_channel, channels = 2, 2, 4, 8
    left_out = 4096 * 4097 // 2 - pairs
    assert plain.forward_flops - bill.forward_flops == layers * heads * per_channel * channels * left_out
    assert bill.flops_error == 0


def test_a_bill_that_cannot_be_exact_says_how_far_off_it_may_be():
    bill = size(architecture("causal & (where(k % (q // 8 + 1) == 0) | sliding(1))", 30_000))
    pairs = sum(len({q, *range(0, q + 1, q // 8 + 1)}) for q in range(30_000))
    exact = size(architecture("causal", 30_000)).forward_flops - 2 * 2 * 4 * 8 * (30_000 * 30_001 // 2 - pairs)
    assert bill.flops_error > 0
    assert abs(bill.forward_flops - exact) <= bill.flops_error
    assert bill.to_dict()["flops"]["forward_per_token_error"] == bill.flops_error / 30_000
    assert "off by at most" in bill_text(bill)


def test_an_own_last_reader_shortens_the_cache(tree):
    bounded = size(architecture("causal & tree(depth=2)", 1000))
    unbounded = size(architecture("causal", 1000))
    assert bounded.kv_cache_bytes < 0.8 * unbounded.kv_cache_bytes


def test_a_condition_that_shuts_queries_out_is_refused_by_the_spec():
    with pytest.raises(Exception, match="see no key"):
        build(architecture("causal & where((q - k) % 7 == 3)"))
    with pytest.raises(Exception, match="later"):
        build(architecture("where((q - k) % 7 != 3)"))


def test_gradients_flow_through_a_pattern_of_ones_own():
    model = build(architecture("causal & where(q // 8 - k // 8 <= 1)"), dtype="fp64")
    tokens = torch.arange(48).view(1, 48)
    model.loss(tokens, tokens).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert "tree" not in NAMED
