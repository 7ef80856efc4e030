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
from vitruvius.nn.backends.flex_masks import keys_of

FAR_APART = st.tuples(st.integers(1, 60), st.integers(8, 70)).map(
    lambda t: f"causal & (sliding({t[0]}) | global(every={t[1]}))"
)


@pytest.fixture
def in_the_open(monkeypatch):
    """FlexAttention as its own reference computes it: any dtype, nothing compiled."""
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(module, "kernel", lambda: torchs.flex_attention)
    monkeypatch.setattr(module, "_compiles_on_cpu", lambda *_: True)
    monkeypatch.setattr(module, "_KERNELS", set())
    monkeypatch.setattr(module, "MOST_KERNELS", 1 << 20)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    data=st.data(),
    pattern=st.one_of(PATTERNS, FAR_APART),
    length=st.integers(1, 300),
    names=st.sets(st.sampled_from(NAMES)),
)
def test_masks_and_scores_for_flex_attention_equal_the_reference(in_the_open, data, pattern, length, names) -> None:
    documents = data.draw(st.none() | document_rows(length))
    case = Case.of(pattern, length, names, documents=documents)
    with torch.no_grad():
        inputs = [case.leaves[n] for n in "qkv"]
        found, expected = (BACKENDS[name](*inputs, case.request) for name in ("flex", "reference"))
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def unmasked(mask):
    """The tiles whose pairs a kernel takes to be allowed, [B, tiles of queries, tiles of keys]."""
    rows = mask.full_kv_num_blocks.shape[0]
    found = torch.zeros(rows, *mask.full_kv_indices.shape[-2:], dtype=torch.bool)
    for b in range(rows):
        for i, count in enumerate(mask.full_kv_num_blocks[b, 0].tolist()):
            found[b, i, mask.full_kv_indices[b, 0, i, :count].long()] = True
    return found.expand(2, -1, -1)


@settings(max_examples=30)
@given(data=st.data(), pattern=st.one_of(PATTERNS, FAR_APART), length=st.integers(1, 400))
def test_tiles_are_visited_where_a_pair_is_allowed_and_unmasked_only_where_all_are(data, pattern, length) -> None:
    documents = data.draw(st.none() | document_rows(length))
    names = data.draw(st.sampled_from([[], ["prefix"]]))
    request = Case.of(pattern, length, names, documents=documents).request
    mask = keys_of(request, length, torch.device("cpu")).mask
    queries, keys = mask.seq_lengths
    b, q, k = torch.arange(2).view(2, 1, 1), torch.arange(queries).view(-1, 1), torch.arange(keys)
    allowed = mask.mask_mod(b, 0, q, k).expand(2, queries, keys)
    visited = mask.to_dense().expand(2, 1, -1, -1)[:, 0].bool()
    free = unmasked(mask)
    for i in range(visited.shape[1]):
        for j in range(visited.shape[2]):
            tile = allowed[:, i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128].flatten(1)
            assert bool((visited[:, i, j] >= tile.any(1)).all())
            assert bool((free[:, i, j] <= tile.all(1)).all())


@pytest.mark.parametrize("pattern", ["causal & sliding(256)", "causal & (sliding(256) | global(every=128))"])
def test_the_tiles_of_windows_and_globals_do_not_grow_faster_than_the_length(pattern) -> None:
    counts = []
    for length in (2048, 8192):
        keys = keys_of(Case.of(pattern, length, width=1, value_width=1).request, length, torch.device("cpu"))
        assert (keys.ahead is not None) == ("global" in pattern)
        counts.append(int(keys.mask.kv_num_blocks.sum() + keys.mask.full_kv_num_blocks.sum()))
    assert counts[1] <= 4.5 * counts[0]


def test_block_masks_are_kept_by_pattern_and_length() -> None:
    one, other = (Case.of(text, 300).request for text in ("causal & sliding(9)", "sliding(9)"))
    device = torch.device("cpu")
    assert keys_of(one, 300, device) is keys_of(other, 300, device)


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
    pattern = "causal & (sliding(40) | sinks(3) | global(every=16))"
    case = Case.of(pattern, 300, names, documents=documents, value_width=8)
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


def test_a_compiled_model_leaves_the_making_of_masks_alone(monkeypatch):
    # Traced, the caches of masks would be passed over, and loops over tiles would leave whole layers uncompiled.
    made = []
    monkeypatch.setattr(module, "keys_of", lambda *asked: made.append(torch.compiler.is_compiling()) or keys_of(*asked))
    monkeypatch.setattr(module, "kernel", lambda: lambda q, *_, **__: q)
    monkeypatch.setattr(module, "_KERNELS", set())
    case = Case.of("causal & sliding(8)", 200, frozenset())
    q, k, v = (case.leaves[name].detach().float() for name in "qkv")
    compiled = torch.compile(lambda q, k, v: module.flex(q + 1, k, v, case.request) * 2, backend="eager")
    with torch.no_grad():
        found = [compiled(q, k, v) for _ in range(2)]
    torch._dynamo.reset()
    assert torch.equal(found[1], (q + 1) * 2)
    assert made == [False, False]
    assert len(module._KERNELS) == 1
