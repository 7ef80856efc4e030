"""Attention to keys in a cache equals the last rows of attention to the whole sequence, with any terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_cases import NAMES, PATTERNS, Case
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.nn.backends import BACKENDS, attend_stored
from vitruvius.nn.cache import Step
from vitruvius.nn.mixers.keyvalue import KeyValueStore, Readable
from vitruvius.nn.place import Place
from vitruvius.patterns import parse, plan

WITHOUT_PREFIX = st.sets(st.sampled_from([name for name in NAMES if name != "prefix"]))


def stored(case: Case, first: int, *, hidden: int = 0, backend: str = "auto") -> torch.Tensor:
    """What queries from `first` on read from keys in another order, with `hidden` empty slots among them."""
    request = case.request
    length = case.leaves["q"].shape[2]
    order = torch.randperm(length, generator=torch.Generator().manual_seed(3))
    slots = torch.cat([order, torch.full((hidden,), -1)])
    kept = slots.clamp(min=0)
    tensors = {"k": case.leaves["k"][:, :, kept], "v": case.leaves["v"][:, :, kept]}
    if request.decay is not None:
        tensors["decay"] = request.decay[1][:, :, kept].unsqueeze(-1)
        request = replace(request, decay=(request.decay[0][:, :, first:], request.decay[1]))
    positions = torch.arange(first, length)
    mask = request.pattern.allows(positions.unsqueeze(1), slots)
    mask = None if bool(mask.all()) else mask
    place = Place(positions=positions, prefix=request.place.prefix, backend=backend)
    readable = Readable(tensors=tensors, positions=slots, seen=mask)
    return attend_stored(case.leaves["q"][:, :, first:], readable, replace(request, place=place))


@given(data=st.data(), pattern=PATTERNS, length=st.integers(1, 200), names=WITHOUT_PREFIX, hidden=st.integers(0, 5))
def test_queries_over_stored_keys_equal_the_rows_of_the_whole_forward_and_backward(
    data, pattern, length, names, hidden
) -> None:
    case = Case.of(pattern, length, names, seed=length, groups=(1, 2, 4)[length % 3], value_width=(6, 8)[length % 2])
    first = data.draw(st.one_of(st.just(length - 1), st.integers(0, length - 1)))
    q, k, v = (case.leaves[name] for name in "qkv")
    expected = BACKENDS["reference"](q, k, v, case.request)[:, :, first:]
    for backend in ("auto", "reference"):
        found = stored(case, first, hidden=hidden, backend=backend)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9)
        with torch.no_grad():
            assert torch.allclose(stored(case, first, hidden=hidden, backend=backend), expected, rtol=0, atol=1e-9)
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    leaves = list(case.leaves.values())
    true = torch.autograd.grad(expected, leaves, seed, retain_graph=True)
    for ours, theirs in zip(torch.autograd.grad(stored(case, first, hidden=hidden), leaves, seed), true, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@given(names=WITHOUT_PREFIX, rows=st.permutations([7, 30]))
def test_rows_at_different_positions_read_what_each_alone_would(names, rows) -> None:
    case = Case.of("causal & (sliding(9) | sinks(2))", 40, names)
    request, leaves = case.request, case.leaves
    positions = torch.tensor(rows).unsqueeze(1)
    slots = torch.arange(40).expand(2, -1)
    c_q = None if request.decay is None else torch.stack([request.decay[0][b, :, at] for b, at in enumerate(rows)])
    tensors = {"k": leaves["k"], "v": leaves["v"]}
    if request.decay is not None:
        tensors["decay"] = request.decay[1].unsqueeze(-1)
        request = replace(request, decay=(c_q.unsqueeze(-1), request.decay[1]))
    mask = request.pattern.allows(positions.unsqueeze(-1), slots.unsqueeze(-2)).unsqueeze(1)
    readable = Readable(tensors=tensors, positions=slots, seen=mask)
    q = torch.stack([leaves["q"][b, :, at] for b, at in enumerate(rows)]).unsqueeze(2)
    found = attend_stored(q, readable, replace(request, place=Place(positions=positions)))
    whole = BACKENDS["reference"](*(leaves[n] for n in "qkv"), case.request)
    for b, at in enumerate(rows):
        assert torch.allclose(found[b, :, 0], whole[b, :, at], rtol=0, atol=1e-9)


@given(names=st.sets(st.sampled_from(NAMES)), length=st.integers(2, 200))
def test_a_prefix_read_in_one_call_equals_the_whole_sequence(names, length) -> None:
    case = Case.of("causal & sliding(5)", length, {*names, "prefix"})
    case.request.prefix_B.clamp_(max=length)
    expected = BACKENDS["reference"](*(case.leaves[n] for n in "qkv"), case.request)
    assert torch.allclose(stored(case, 0), expected, rtol=0, atol=1e-9)


def test_a_prefill_of_whole_sequences_never_asks_for_a_mask_of_all_pairs() -> None:
    pattern, length = parse("causal & (sliding(20) | sinks(2))"), 50
    kept = {name: torch.zeros(2, 2, length, 8, dtype=torch.float64) for name in "kv"}
    store = KeyValueStore(plan(pattern, length), kept)
    store.step = Step(starts=[0, 0], counts=[length, 40], length=length)
    case = Case.of("causal & (sliding(20) | sinks(2))", length, value_width=8)
    readable = store.extend({"k": case.leaves["k"], "v": case.leaves["v"]}, torch.arange(length), pattern)
    readable = replace(readable, seen=lambda _: pytest.fail("nobody needs all pairs"))
    found = attend_stored(case.leaves["q"], readable, case.request)
    assert torch.allclose(found, case.results("reference")["out"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("first", "prefix"), [(0, 41), (3, 30)])
def test_a_prefix_in_parts_is_refused_with_the_way_out(first, prefix) -> None:
    case = Case.of("causal", 40)
    prefix_B = torch.tensor([0, prefix])
    place = replace(case.request.place, prefix=prefix_B)
    case.request = replace(case.request, place=place, prefix_B=prefix_B)
    with pytest.raises(UsageError, match="whole prefix in the first call"):
        stored(case, first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("queries", [1, 3])
def test_decoding_in_low_precision_keeps_its_dtype_and_digits(dtype, queries) -> None:
    case = Case.of("causal & sliding(30)", 64, ["decay", "sink", "table"], value_width=8)
    exact = stored(case, 64 - queries)
    low = Case(case.request, {name: leaf.to(dtype) for name, leaf in case.leaves.items()})
    found = stored(low, 64 - queries)
    assert found.dtype == dtype
    assert (found - exact).abs().max() < {torch.bfloat16: 4e-2, torch.float32: 1e-5}[dtype]
