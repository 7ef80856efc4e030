"""FlexAttention: its mask and score functions give the same numbers, compiled on a CPU, with gradients on CUDA."""

from __future__ import annotations

import pytest
import torch
from attention_cases import NAMES, PATTERNS, Case, document_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torchs

import vitruvius.nn.backends.flex as module
from vitruvius.errors import UsageError
from vitruvius.nn.backends import BACKENDS
from vitruvius.patterns import full_tile, parse


@pytest.fixture
def in_the_open(monkeypatch):
    """FlexAttention as its own reference computes it: any dtype, nothing compiled."""
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(module, "kernel", lambda: torchs.flex_attention)
    monkeypatch.setattr(module, "_compiles_on_cpu", lambda *_: True)
    monkeypatch.setattr(module, "_KERNELS", set())
    monkeypatch.setattr(module, "MOST_KERNELS", 1 << 20)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), pattern=PATTERNS, length=st.integers(1, 300), names=st.sets(st.sampled_from(NAMES)))
def test_masks_and_scores_for_flex_attention_equal_the_reference(in_the_open, data, pattern, length, names) -> None:
    documents = data.draw(st.none() | document_rows(length))
    case = Case.of(pattern, length, names, documents=documents)
    with torch.no_grad():
        inputs = [case.leaves[n] for n in "qkv"]
        found, expected = (BACKENDS[name](*inputs, case.request) for name in ("flex", "reference"))
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@given(pattern=PATTERNS, length=st.integers(1, 600))
def test_tiles_are_listed_where_a_pair_is_allowed_and_full_only_where_all_are(pattern, length) -> None:
    pattern = parse(pattern)
    live, full = module._tiles(pattern, length, torch.device("cpu"))
    positions = torch.arange(length)
    allowed = pattern.allows(positions.unsqueeze(1), positions)
    for i in range(live.shape[0]):
        for j in range(live.shape[1]):
            tile = allowed[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            assert bool(live[i, j]) >= bool(tile.any())
            assert bool(full[i, j]) <= bool(tile.all())


def test_the_tiles_of_a_window_do_not_grow_with_the_length() -> None:
    pattern = parse("causal & sliding(256)")
    short, long = (module._plain_mask(pattern, n, torch.device("cpu")).kv_num_blocks for n in (2048, 8192))
    assert long.sum() <= 4.5 * short.sum()
    assert full_tile(pattern, 1024, 1025, 900, 1025)


def test_block_masks_are_kept_by_pattern_and_length() -> None:
    pattern, device = parse("causal & sliding(9)"), torch.device("cpu")
    assert module._plain_mask(pattern, 300, device) is module._plain_mask(parse("sliding(9)"), 300, device)


def test_training_on_a_cpu_is_refused_with_the_way_out() -> None:
    case = Case.of("causal & sliding(9)", 20)
    with pytest.raises(UsageError, match="no backward pass on a CPU"):
        BACKENDS["flex"](*(case.leaves[n] for n in "qkv"), case.request)


def test_past_the_most_kernels_blocks_take_over(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_KERNELS", 0)
    monkeypatch.setattr(module, "kernel", lambda: pytest.fail("nothing more is compiled"))
    case = Case.of("causal & sliding(9)", 40, ["decay"])
    with torch.no_grad():
        inputs = [case.leaves[n].float() for n in "qkv"]
        found, expected = (BACKENDS[name](*inputs, case.request) for name in ("flex", "chunked"))
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "packed"), [(["decay", "bias", "softcap", "table"], False), (["decay", "prefix"], True)]
)
def test_compiled_for_a_cpu_it_equals_the_reference(names, packed) -> None:
    documents = torch.arange(300).div(70, rounding_mode="floor").expand(2, -1) if packed else None
    case = Case.of("causal & (sliding(40) | sinks(3))", 300, names, documents=documents, value_width=8)
    with torch.no_grad():
        inputs = [case.leaves[n].float() for n in "qkv"]
        found, expected = (BACKENDS[name](*inputs, case.request) for name in ("flex", "reference"))
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("names", [[], ["decay", "sink"], ["table", "softcap", "bias"], ["prefix"]])
@pytest.mark.parametrize("pattern", ["causal & sliding(200)", "causal & (sliding(100) | global(every=128))"])
def test_gradients_on_cuda_equal_the_reference(names, pattern) -> None:
    exact = Case.of(pattern, 512, names, width=64, value_width=64).results("reference")
    found = Case.of(pattern, 512, names, width=64, value_width=64, device="cuda", dtype=torch.float32).results("flex")
    for name, expected in exact.items():
        error = (found[name].cpu().double() - expected).norm() / expected.norm().clamp(min=1e-9)
        assert error < 1e-2, name
