"""Decoding through the cache: every pattern, uneven rows, exact bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.sizing import kv_cache_bytes
from vitruvius.spec import preset

PATTERNS = [
    "causal",
    "causal & sliding(9)",
    "causal & (sliding(8) | global(every=5))",
    "causal & (sliding(8) | sinks(3) | global(every=6))",
    "causal & (sliding(2) | sinks(4) | (sliding(20) & global(every=3)))",
    "causal & dilated(5, every=4)",
    "causal & (sliding(4) | dilated(4, every=4))",
    "causal & block(7)",
    "causal & (block(6) | sinks(2))",
    "causal & stride(3)",
    "causal & stride2d(4, 5)",
    "causal & (sliding(3) | global(every=4, offset=2))",
]
LENGTH = 41


def _model(pattern: str, position: str = "{kind: rope}"):
    overrides = [
        "width=16",
        "vocab_size=53",
        "layers=layer*2",
        f"blocks.layer.mixer={{kind: attention, heads: 4, kv_heads: 2, sees: '{pattern}', position: {position}}}",
        "blocks.layer.ffn.hidden=24",
    ]
    return build(preset("tiny-llama", overrides=overrides), dtype=torch.float64, seed=1)


def _tokens(rows: int) -> torch.Tensor:
    return torch.randint(0, 53, (rows, LENGTH), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("position", ["{kind: rope}", "{kind: alibi}"])
@pytest.mark.parametrize("pattern", PATTERNS)
@torch.inference_mode()
def test_any_split_of_a_sequence_into_steps_gives_the_full_forward_pass(pattern, position) -> None:
    model, tokens = _model(pattern, position), _tokens(2)
    full = model(tokens)
    for steps in ([1] * LENGTH, [17, 1, 1, 1, 15, 1, 1, 4], [LENGTH], [2, 5, 34]):
        cache, at, parts = model.cache(2, capacity=LENGTH), 0, []
        for count in steps:
            parts.append(model(tokens[:, at : at + count], cache=cache))
            at += count
        assert torch.allclose(torch.cat(parts, dim=1), full, rtol=0, atol=1e-9)


@given(pattern=st.sampled_from(PATTERNS), data=st.data())
@torch.inference_mode()
def test_rows_of_different_lengths_decode_as_if_alone(pattern, data) -> None:
    model, tokens = _model(pattern), _tokens(3)
    full = model(tokens)
    cache, at = model.cache(3, capacity=LENGTH), [0, 0, 0]
    for _ in range(6):
        counts = [data.draw(st.integers(0, min(9, LENGTH - start))) for start in at]
        width = max(counts)
        if width == 0:
            continue
        rows = [tokens[row, start : start + width] for row, start in enumerate(at)]
        padded = torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=7) for row in rows])
        out = model(padded, cache=cache, counts=counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            assert torch.allclose(out[row, :count], full[row, start : start + count], rtol=0, atol=1e-9)
        at = [start + count for start, count in zip(at, counts, strict=True)]
    assert cache.lengths == at


@given(pattern=st.sampled_from(PATTERNS), capacity=st.integers(1, 300), batch=st.integers(1, 3))
def test_the_cache_takes_the_bytes_that_sizing_says(pattern, capacity, batch) -> None:
    model = _model(pattern)
    assert model.cache(batch, capacity=capacity).nbytes == kv_cache_bytes(model.graph, capacity, batch, "fp64")


def test_a_full_cache_names_its_capacity_and_the_length_that_came() -> None:
    model = _model("causal")
    cache = model.cache(1, capacity=10)
    with pytest.raises(UsageError, match=r"10.*11"):
        model(_tokens(1)[:, :11], cache=cache)
    assert cache.lengths == [0]


def test_arguments_that_do_not_go_together_are_refused() -> None:
    model, tokens = _model("causal"), _tokens(2)
    with pytest.raises(UsageError, match="holds 3"):
        model(tokens, cache=model.cache(3, capacity=99))
    with pytest.raises(UsageError, match="counts"):
        model(tokens, cache=model.cache(2, capacity=99), counts=[1])
    with pytest.raises(UsageError, match="documents"):
        model(tokens, cache=model.cache(2, capacity=99), documents=torch.zeros_like(tokens))
    with pytest.raises(UsageError, match="shape"):
        model(tokens[0])


@torch.inference_mode()
def test_a_reset_row_starts_over_as_if_new() -> None:
    model, tokens = _model("causal & (sliding(8) | global(every=5))"), _tokens(1)
    cache = model.cache(1, capacity=LENGTH)
    model(tokens, cache=cache)
    cache.reset()
    again = [model(tokens[:, i : i + 1], cache=cache) for i in range(30)]
    assert torch.allclose(torch.cat(again, dim=1), model(tokens[:, :30]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("tokens", "options", "said"),
    [
        (torch.tensor([[1, 53]]), {}, "id 53"),
        (torch.tensor([[-1, 5]]), {}, "id -1"),
        (torch.tensor([[1.0, 5.0]]), {}, "int64"),
        (torch.zeros(1, 0, dtype=torch.int64), {}, "one token"),
        (torch.zeros(1, 4, dtype=torch.int64), {"documents": torch.zeros(1, 3, dtype=torch.int64)}, "documents"),
    ],
)
def test_ids_that_no_row_of_the_table_has_are_refused_by_name(tokens, options, said) -> None:
    with pytest.raises(UsageError, match=said):
        _model("causal")(tokens, **options)


def test_a_cache_for_nothing_and_an_unknown_backend_are_refused() -> None:
    model = _model("causal")
    with pytest.raises(UsageError, match="holds nothing"):
        model.cache(0, capacity=5)
    model.backend = "fast"
    with pytest.raises(UsageError, match="fast"):
        model(_tokens(1))
