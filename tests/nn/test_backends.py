"""Every way to compute attention gives the same numbers, in memory linear in the length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vitruvius.nn.backends import BACKENDS, Request, choose
from vitruvius.nn.place import Place, place_packed
from vitruvius.nn.positions.alibi import ALiBiModule
from vitruvius.nn.registry import Factory
from vitruvius.patterns import causal, parse
from vitruvius.spec import preset, resolve
from vitruvius.spec.positions.alibi import ALiBi

TERMS = st.one_of(
    st.just("causal"),
    st.integers(1, 40).map("sliding({})".format),
    st.integers(1, 6).map("sinks({})".format),
    st.tuples(st.integers(1, 12), st.integers(0, 3)).map(lambda t: f"global(every={t[0] + t[1]}, offset={t[1]})"),
    st.tuples(st.integers(1, 9), st.integers(1, 5)).map(lambda t: f"dilated({t[0]}, every={t[1]})"),
    st.integers(1, 30).map("block({})".format),
    st.integers(1, 7).map("stride({})".format),
    st.tuples(st.integers(1, 4), st.integers(1, 5)).map(lambda t: f"stride2d({t[0]}, {t[1]})"),
)
PATTERNS = st.lists(TERMS, min_size=1, max_size=3).map(lambda terms: f"causal & (sliding(1) | {' | '.join(terms)})")


def _inputs(length: int, seed: int = 0, *, heads: int = 4, groups: int = 2, width: int = 8):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, heads, length, width), (2, groups, length, width), (2, groups, length, width)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def _both(request: Request, length: int, seed: int = 0):
    """Output and gradients by the chunked backend and by the reference."""
    results = []
    for name in ("chunked", "reference"):
        inputs = _inputs(length, seed)
        out = BACKENDS[name](*inputs, request)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
        (out * weights).sum().backward()
        results.append([out, *(x.grad for x in inputs)])
    return zip(*results, strict=True)


@given(pattern=PATTERNS, length=st.integers(1, 300), seed=st.integers(0, 99))
def test_the_chunked_backend_equals_the_reference_for_any_pattern_forward_and_backward(pattern, length, seed) -> None:
    request = Request(pattern=parse(pattern), scale=0.3, place=Place(positions=torch.arange(length)))
    for ours, theirs in _both(request, length, seed):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@given(pattern=PATTERNS, length=st.integers(2, 200), data=st.data())
def test_packed_documents_never_see_each_other_in_any_backend(pattern, length, data) -> None:
    cuts = data.draw(st.lists(st.integers(1, length - 1), max_size=4))
    documents = torch.zeros(2, length, dtype=torch.int64)
    for cut in cuts:
        documents[0, cut:] += 1
    place = Place(positions=place_packed(documents), documents=documents)
    request = Request(pattern=parse(pattern), scale=0.3, place=place)
    for ours, theirs in _both(request, length):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pattern", ["causal", "causal & sliding(20)", "causal & dilated(9, every=4)"])
def test_alibi_reaches_every_backend(pattern) -> None:
    alibi = ALiBiModule(ALiBi(), resolve(preset("tiny-llama")).scope, Factory(device="cpu", dtype=torch.float64))
    request = Request(pattern=parse(pattern), scale=0.3, place=Place(positions=torch.arange(150)), bias=alibi.bias)
    for ours, theirs in _both(request, 150):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sdpa_serves_plain_causal_attention_with_grouped_queries(dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in _inputs(70))
    request = Request(pattern=causal, scale=0.3, place=Place(positions=torch.arange(70)))
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


def _largest(pattern: str, length: int) -> int:
    q, k, v = (torch.randn(1, 2, length, 8, requires_grad=True) for _ in range(3))
    request = Request(pattern=parse(pattern), scale=0.3, place=Place(positions=torch.arange(length)))
    with _Largest() as mode:
        BACKENDS["chunked"](q, k, v, request).sum().backward()
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
def test_no_tensor_of_the_chunked_backend_grows_faster_than_the_length(pattern) -> None:
    small, large = _largest(pattern, 1024), _largest(pattern, 4096)
    assert large <= 4.2 * small
    assert large < 4096 * 4096 // 4


def test_the_table_sends_plain_causal_inference_to_sdpa_and_everything_else_to_blocks() -> None:
    plain = Request(pattern=causal, scale=1.0, place=Place(positions=torch.arange(4)))
    assert choose(plain, device="cpu", training=False) == "sdpa"
    assert choose(plain, device="cpu", training=True) == "chunked"
    assert choose(plain, device="cuda", training=True) == "sdpa"
    assert choose(replace(plain, pattern=parse("causal & sliding(3)")), device="cuda", training=False) == "chunked"
    packed = replace(plain, place=Place(positions=torch.arange(4), documents=torch.zeros(1, 4)))
    assert choose(packed, device="cpu", training=False) == "chunked"
