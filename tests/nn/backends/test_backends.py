"""Every way to compute attention gives the same numbers, in memory linear in the length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_cases import NAMES, PATTERNS, UNIONS, Case, document_rows
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vitruvius.nn import build
from vitruvius.nn.backends import BACKENDS, packed, plans
from vitruvius.patterns import causal, everything, parse
from vitruvius.spec import read_text


@given(pattern=PATTERNS, length=st.integers(1, 300), seed=st.integers(0, 99))
def test_the_chunked_backend_equals_the_reference_for_any_pattern_forward_and_backward(pattern, length, seed) -> None:
    Case.of(pattern, length, seed=seed).assert_same()


@given(pattern=PATTERNS, length=st.integers(1, 200), names=st.sets(st.sampled_from(NAMES)), seed=st.integers(0, 99))
def test_any_terms_on_any_pattern_equal_the_reference_forward_and_backward(pattern, length, names, seed) -> None:
    Case.of(pattern, length, names, seed=seed, groups=(1, 2, 4)[seed % 3]).assert_same()


@pytest.mark.slow
@given(data=st.data(), pattern=PATTERNS, length=st.integers(2, 300), names=st.sets(st.sampled_from(NAMES), max_size=3))
def test_packed_documents_never_see_each_other_in_any_backend(data, pattern, length, names) -> None:
    documents = data.draw(document_rows(length))
    Case.of(pattern, length, names, documents=documents).assert_same()


@given(data=st.data(), pattern=PATTERNS, length=st.integers(1, 300), names=st.sets(st.sampled_from(NAMES), max_size=2))
def test_attention_without_gradients_gives_the_same_numbers_in_every_backend(data, pattern, length, names) -> None:
    documents = data.draw(st.none() | document_rows(length))
    case = Case.of(pattern, length, names, documents=documents, value_width=data.draw(st.sampled_from([6, 8])))
    with torch.no_grad():
        expected = BACKENDS["reference"](*(case.leaves[n] for n in "qkv"), case.request)
        for name in ("chunked", "sdpa"):
            found = BACKENDS[name](*(case.leaves[n] for n in "qkv"), case.request)
            assert torch.allclose(found, expected, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("cheaper", ["shared", "by document"])
@given(data=st.data(), pattern=UNIONS, length=st.integers(2, 300))
def test_both_plans_for_packed_rows_give_the_same_numbers(cheaper, data, pattern, length) -> None:
    documents = data.draw(document_rows(length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_TILE_COST", 0 if cheaper == "by document" else 1 << 40)
        packed._BATCHES.clear()
        Case.of(pattern, length, documents=documents).assert_same()
    packed._BATCHES.clear()


def test_a_document_ends_for_good_where_another_begins() -> None:
    documents = torch.tensor([[3] * 20 + [5] * 20 + [3] * 20] * 2)
    numbered = torch.tensor([[0] * 20 + [1] * 20 + [2] * 20] * 2)
    again, ours = (Case.of("causal", 60, documents=rows) for rows in (documents, numbered))
    for backend in ("reference", "chunked"):
        assert torch.equal(again.results(backend)["out"], ours.results(backend)["out"])


def test_a_batch_buffer_that_is_filled_anew_gets_a_plan_of_its_own() -> None:
    buffer = torch.zeros(2, 200, dtype=torch.int64)
    Case.of("causal", 200, documents=buffer).assert_same()
    buffer[:, 77:] = 1
    Case.of("causal", 200, documents=buffer).assert_same()


def test_a_bias_that_looks_at_distances_reaches_folded_patterns() -> None:
    Case.of("causal & dilated(9, every=4)", 150, ["bias", "table"]).assert_same()


def test_masks_that_no_longer_fit_are_made_when_needed(monkeypatch) -> None:
    monkeypatch.setattr(plans, "KEPT_MASKS", 0)
    monkeypatch.setattr(packed, "KEPT_MASKS", 0)
    plans._plan.cache_clear()
    Case.of("causal & (sliding(9) | global(every=7) | block(50))", 300).assert_same()
    packed._BATCHES.clear()
    documents = torch.arange(300).div(40, rounding_mode="floor").expand(2, -1)
    Case.of("causal & (sliding(9) | stride(3))", 300, documents=documents).assert_same()
    plans._plan.cache_clear()
    packed._BATCHES.clear()


def test_the_softmax_of_a_late_query_keeps_the_digits_of_its_decay() -> None:
    """After 100,000 tokens a cumulative decay is large, and only differences between neighbours matter."""
    case = Case.of("causal & sliding(64)", 300, ["decay"])
    q, k, v = (case.leaves[n].detach().float() for n in "qkv")
    c_q, c_k = (c.detach() - 4096.0 for c in case.request.decay or ())
    near = replace(case.request, decay=(c_q + 4096.0, c_k + 4096.0))
    exact = BACKENDS["chunked"](*(x.double() for x in (q, k, v)), near)
    ours = BACKENDS["chunked"](q, k, v, replace(case.request, decay=(c_q.float(), c_k.float())))
    assert (ours - exact).abs().max() < 4096 * 2**-23 * 4


@pytest.mark.parametrize("pattern", [causal, everything])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sdpa_serves_plain_attention_with_grouped_queries(dtype, pattern) -> None:
    case = Case.of("causal", 70, value_width=8)
    q, k, v = (case.leaves[n].detach().to(dtype) for n in "qkv")
    request = replace(case.request, pattern=pattern)
    bound = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
    assert (BACKENDS["sdpa"](q, k, v, request) - BACKENDS["reference"](q, k, v, request)).abs().max() < bound


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.untyped_storage().nbytes() // item.element_size())
        return result


def _largest(pattern: str, length: int, names=(), documents=None) -> int:
    case = Case.of(pattern, length, names, documents=documents, heads=2, groups=2, value_width=8)
    with _Largest() as mode:
        BACKENDS["chunked"](*(case.leaves[n] for n in "qkv"), case.request).sum().backward()
    return mode.elements


@pytest.mark.parametrize(
    "pattern",
    [
        "causal & sliding(256)",
        "causal & (sliding(256) | global(every=128))",
        "causal & dilated(128, every=4)",
        "causal",
    ],
)
@pytest.mark.parametrize("names", [(), ("decay", "sink", "table", "softcap")])
def test_no_tensor_of_the_chunked_backend_grows_faster_than_the_length(pattern, names) -> None:
    small, large = _largest(pattern, 1024, names), _largest(pattern, 4096, names)
    assert large <= 4.2 * small
    assert large < 4096 * 4096 // 4


def _pairs(pattern: str, length: int, document: int) -> int:
    """Scores that packed rows of equal documents take."""
    documents = torch.arange(length).div(document, rounding_mode="floor").unsqueeze(0)
    blocks = packed.plan_packed(parse(pattern), documents, None)
    return sum((b.q_stop - b.q_start) * sum(len(range(r.start, r.stop, r.step)) for r in b.keys) for b in blocks)


@pytest.mark.parametrize("pattern", ["causal & (sliding(64) | sinks(4))", "causal & (sliding(64) | global(every=32))"])
@pytest.mark.parametrize("document", [40, 700])
def test_packed_rows_with_sinks_or_globals_take_time_linear_in_the_length(pattern, document) -> None:
    assert _pairs(pattern, 8192, document) <= 4.5 * _pairs(pattern, 2048, document)


@pytest.mark.parametrize("document", [None, 90, 700])
def test_blocks_of_ever_more_keys_come_in_few_shapes(document) -> None:
    pattern, length = parse("causal & (sliding(500) | global(every=16))"), 1 << 15
    if document is None:
        blocks = plans.plan_rows(pattern, length, torch.device("cpu"), None)
    else:
        lengths = torch.arange(length).div(document, rounding_mode="floor").unsqueeze(0)
        blocks = packed.plan_packed(pattern, lengths, None)
    counts = [sum(len(range(run.start, run.stop, run.step or 1)) for run in block.keys) for block in blocks]
    assert len({(block.q_stop - block.q_start, count) for block, count in zip(blocks, counts, strict=True)}) <= 40


def test_packed_rows_can_be_read_in_inference_mode():
    text = "name: packed\nvocab_size: 31\nwidth: 16\ncontext: 12\nlayers: a\n"
    text += "blocks: {a: {mixer: {kind: attention, heads: 2}}}\n"
    model = build(read_text(text).architecture, dtype="fp64")
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = model(tokens, documents=torch.arange(12).expand(2, -1) // 5)
    with torch.inference_mode():
        documents = torch.arange(12).expand(2, -1) // 5
        torch.testing.assert_close(model(tokens, documents=documents), expected, rtol=0, atol=1e-12)
