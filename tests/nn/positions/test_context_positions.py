"""Positions that depend on the content: fast paths against readable ones, decoding, documents, what they report."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vitruvius.errors import SpecError
from vitruvius.nn import Signals, build
from vitruvius.spec import Architecture, read_text

POSITIONS = {
    "fox": "{kind: fox, horizon: 6}",
    "cumulative-rope, bounded by pair": "{kind: cumulative-rope}",
    "cumulative-rope, linear by head": "{kind: cumulative-rope, rate: linear, per: head, theta: 100}",
    "cope, shared": "{kind: cope, positions: 9}",
    "cope, per head": "{kind: cope, positions: 300, table: per-head}",
    "path": "{kind: path, rank: 4}",
    "path without convolution, full rank": "{kind: path, rank: null, kernel: 1}",
    "path-fox": "{kind: path, rank: 6, kernel: 4, forget: fox, horizon: 9}",
}
PATTERNS = [
    "causal",
    "causal & sliding(9)",
    "causal & (sliding(40) | global(every=16))",
    "causal & (sliding(8) | sinks(3) | global(every=6))",
    "causal & dilated(5, every=4)",
    "causal & (block(6) | sinks(2))",
    "causal & (sliding(3) | global(every=150, offset=2))",
]
kinds = pytest.mark.parametrize("position", POSITIONS.values(), ids=list(POSITIONS))


def architecture(
    position: str, sees: str = "causal", *, heads: int = 4, kv_heads: int = 2, more: str = ""
) -> Architecture:
    mixer = f'{{kind: attention, heads: {heads}, kv_heads: {kv_heads}, sees: "{sees}", position: {position}{more}}}'
    text = f"""
name: test
vocab_size: 31
width: 16
context: 600
init: {{kind: kaiming, nonlinearity: linear, table_std: 0.5}}
blocks: {{layer: {{mixer: {mixer}}}}}
layers: layer*2
"""
    return read_text(text).architecture


def model_of(position: str, sees: str = "causal", **settings: object):
    return build(architecture(position, sees, **settings), dtype=torch.float64, seed=3).eval()


def tokens_of(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 31, (rows, length), generator=torch.Generator().manual_seed(seed))


def run(model, tokens: torch.Tensor, backend: str, documents: torch.Tensor | None = None):
    model.backend = backend
    model.zero_grad(set_to_none=True)
    logits = model(tokens, documents=documents)
    logits.sin().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found, expected) -> None:
    assert torch.allclose(found[0], expected[0], rtol=0, atol=1e-9)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, rtol=0, atol=1e-9 * max(1.0, gradient.abs().max())), name


@kinds
@pytest.mark.parametrize("sees", PATTERNS)
def test_blocks_give_what_the_readable_path_gives_forward_and_backward(position, sees) -> None:
    model, tokens = model_of(position, sees), tokens_of(1, 290)
    assert_equal(run(model, tokens, "auto"), run(model, tokens, "reference"))


@kinds
@settings(max_examples=8)
@given(data=st.data())
def test_packed_rows_give_what_the_readable_path_gives(position, data) -> None:
    sees = data.draw(st.sampled_from(PATTERNS))
    sizes = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    documents = torch.stack([row, row.flip(0)])
    model, tokens = model_of(position, sees), tokens_of(2, sum(sizes))
    assert_equal(run(model, tokens, "auto", documents), run(model, tokens, "reference", documents))


@kinds
@torch.no_grad()
def test_documents_in_a_row_are_read_as_if_alone(position) -> None:
    model, tokens = model_of(position), tokens_of(1, 200)
    documents = torch.tensor([[0] * 70 + [5] * 1 + [0] * 129])
    together = model(tokens, documents=documents)[0]
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        assert torch.allclose(together[part], model(tokens[:, part])[0], rtol=0, atol=1e-9)


@kinds
def test_a_document_has_no_gradient_from_its_neighbour(position) -> None:
    model = model_of(position)
    documents = torch.tensor([[0] * 20 + [1] * 20])
    heard: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda *call: heard.append(call[-1]))
    model(tokens_of(1, 40), documents=documents)[:, 20:].square().sum().backward(inputs=[heard[0]])
    assert heard[0].grad[:, :20].abs().max() == 0
    assert heard[0].grad[:, 20:].abs().max() > 0


@kinds
@pytest.mark.parametrize("sees", PATTERNS)
@torch.inference_mode()
def test_any_split_into_steps_gives_the_full_pass(position, sees) -> None:
    model, tokens = model_of(position, sees), tokens_of(2, 61)
    full = model(tokens)
    for steps in ([1] * 61, [30, 1, 1, 1, 15, 1, 8, 4], [61], [2, 5, 54]):
        cache, at, parts = model.cache(2, capacity=61), 0, []
        for count in steps:
            parts.append(model(tokens[:, at : at + count], cache=cache))
            at += count
        assert torch.allclose(torch.cat(parts, dim=1), full, rtol=0, atol=1e-9)


@kinds
@torch.inference_mode()
def test_a_prefill_longer_than_a_block_beside_a_full_cache(position) -> None:
    model, tokens = model_of(position), tokens_of(1, 330)
    cache = model.cache(1, capacity=330)
    found = torch.cat([model(tokens[:, :150], cache=cache), model(tokens[:, 150:], cache=cache)], dim=1)
    assert torch.allclose(found, model(tokens), rtol=0, atol=1e-9)


@kinds
@settings(max_examples=8)
@given(data=st.data())
@torch.inference_mode()
def test_rows_of_different_lengths_decode_as_if_alone(position, data) -> None:
    model, tokens = model_of(position, data.draw(st.sampled_from(PATTERNS))), tokens_of(3, 41)
    full = model(tokens)
    cache, at = model.cache(3, capacity=41), [0, 0, 0]
    for _ in range(6):
        counts = [data.draw(st.integers(0, min(9, 41 - start))) for start in at]
        width = max(counts)
        if width == 0:
            continue
        rows = [tokens[row, start : start + count] for row, (start, count) in enumerate(zip(at, counts, strict=True))]
        padded = torch.stack([F.pad(row, (0, width - len(row)), value=7) for row in rows])
        out = model(padded, cache=cache, counts=counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            assert torch.allclose(out[row, :count], full[row, start : start + count], rtol=0, atol=1e-9)
        at = [start + count for start, count in zip(at, counts, strict=True)]


@kinds
@torch.inference_mode()
def test_the_same_token_at_the_same_position_is_encoded_differently_in_another_context(position) -> None:
    """Attention from position 11 to 3 depends on what stands between, though nothing between is attended to."""
    model = model_of(position, "causal & (sliding(1) | (stride(8)))")
    model.backend = "reference"
    one, other = tokens_of(1, 12), tokens_of(1, 12)
    other[:, 4:11] = (other[:, 4:11] + 5) % 31
    heard = [Signals(attention=[]), Signals(attention=[])]
    for tokens, signals in zip((one, other), heard, strict=True):
        model(tokens, signals=signals)
    first, second = (signals.attention[0][0, :, 11] for signals in heard)
    assert (first != 0).equal(second != 0)
    if position.startswith("{kind: cope"):
        # What a query does not see it does not count: only the pattern's own keys move a contextual position.
        assert torch.equal(first, second)
        return
    assert (first - second).abs().max() > 1e-4


@torch.inference_mode()
def test_contextual_positions_count_what_is_seen_between() -> None:
    model = model_of("{kind: cope, positions: 9}")
    model.backend = "reference"
    one, other = tokens_of(1, 12), tokens_of(1, 12)
    other[:, 4:11] = (other[:, 4:11] + 5) % 31
    heard = [Signals(attention=[]), Signals(attention=[])]
    for tokens, signals in zip((one, other), heard, strict=True):
        model(tokens, signals=signals)
    # Odds between two keys that both contexts share: a position that went by distance alone would leave them.
    first, second = (signals.attention[0][0, :, 11] for signals in heard)
    assert (first[:, 2].log() - first[:, 11].log() - second[:, 2].log() + second[:, 11].log()).abs().max() > 1e-4


@kinds
@torch.no_grad()
def test_gates_and_the_variance_of_the_encoding_are_reported(position) -> None:
    model, signals = model_of(position), Signals()
    model(tokens_of(2, 40), signals=signals)
    for name in ("position_gate_mean", "position_gate_std", "position_variance"):
        assert len(signals.metrics[name]) == 2
        assert all(value > 0 and value.isfinite() for value in signals.metrics[name])


@kinds
@torch.no_grad()
def test_on_one_repeated_token_the_encoding_varies_with_distance_alone(position) -> None:
    model, signals = model_of(position, heads=2, kv_heads=1), Signals()
    model(torch.full((1, 200), 4), signals=signals)
    # The first tokens of a convolution see nothing before them, and are few.
    bound = 1e-3 if position.startswith("{kind: path") and "kernel: 1" not in position else 1e-7
    assert signals.metrics["position_variance"][0] < bound


@kinds
def test_memory_of_the_backward_pass_is_linear_in_the_length(position) -> None:
    """No tensor kept for the backward pass, nor the sum of them per token, grows with the square of the length."""
    model = model_of(position)

    def kept(length: int) -> float:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens_of(1, length)).sum()
        return sum(sizes.values()) / length

    assert kept(1024) < 1.2 * kept(512)


@pytest.mark.parametrize("position", ["{kind: fox}", "{kind: cope}", "{kind: path}"])
@pytest.mark.parametrize("why", ["sees: around(4)", "prefix: open"])
def test_positions_that_need_the_past_are_refused_where_later_keys_are_seen(position, why) -> None:
    text = f"""
name: test
vocab_size: 31
width: 16
context: 64
head: {{kind: mlm}}
blocks: {{layer: {{mixer: {{kind: attention, heads: 2, {why}, position: {position}}}}}}}
layers: layer
"""
    with pytest.raises(SpecError, match=r"later keys|knows nothing of prefix"):
        read_text(text)
