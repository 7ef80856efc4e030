"""Blockwise attention against a dense softmax, over random plans."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from vitruvius.nn.ops import QueryBlock, blockwise_attention, causal_blocks, query_blocks
from vitruvius.nn.ops import attention as module


def tensors(b=2, h=4, g=2, t=10, k=3, v=5, dtype=torch.float64):
    gen = torch.Generator().manual_seed(5)

    def made(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype).requires_grad_()

    return made(b, h, t, k), made(b, g, t, k), made(b, g, t, v)


def dense(q, k, v, allowed, *, bias=None, softcap=None, scale=None):
    """The plain formula: [.., T, S] scores of every pair, -inf where `allowed` says no."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def assert_same(plan, allowed, *, bias=None, inputs=None, **options):
    inputs = tensors() if inputs is None else inputs
    out, lse = blockwise_attention(*inputs, blocks=plan, with_lse=True, **options)
    true, true_lse = dense(*inputs, allowed, bias=bias, **options)
    torch.testing.assert_close(out, true, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(lse, true_lse.detach(), rtol=1e-11, atol=1e-11)
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    grads = torch.autograd.grad(out, inputs, seed)
    torch.testing.assert_close(grads, torch.autograd.grad(true, inputs, seed), rtol=1e-10, atol=1e-10)


@pytest.fixture(params=["kept", "recomputed", "one pair at a time"], autouse=True)
def way(request, monkeypatch):
    """Every test runs with probabilities kept, computed again, and with tiles split down to one batch row and head."""
    monkeypatch.setattr(module, "KEPT_PER_INPUT", 0 if request.param == "recomputed" else 1 << 20)
    if request.param == "one pair at a time":
        monkeypatch.setattr(query_blocks, "TILE_SCORES", 1)


@pytest.mark.parametrize("block", [1, 3, 4, 10, 64])
def test_causal_blocks_equal_dense_causal_attention(block):
    assert_same(causal_blocks(10, block), torch.ones(10, 10, dtype=torch.bool).tril())


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_scale_and_softcap_come_before_the_mask(softcap):
    assert_same(causal_blocks(10, 4), torch.ones(10, 10, dtype=torch.bool).tril(), softcap=softcap, scale=0.9)


def sliding_with_globals(t, window, every, block):
    q, k = torch.arange(t)[:, None], torch.arange(t)
    allowed = (k <= q) & ((q - k < window) | (k % every == 0))
    plan = []
    for start in range(0, t, block):
        stop = min(start + block, t)
        first = max(0, start - window + 1)
        runs = (slice(0, first, every), slice(first, stop))
        columns = torch.cat([k[run] for run in runs])
        plan.append(QueryBlock(q_start=start, q_stop=stop, keys=runs, mask=allowed[start:stop][:, columns]))
    return plan, allowed


@pytest.mark.parametrize("block", [2, 3, 10])
def test_global_columns_and_a_window_share_one_softmax(block):
    plan, allowed = sliding_with_globals(10, window=3, every=4, block=block)
    assert_same(plan, allowed)


def test_an_index_tensor_names_any_keys():
    allowed = torch.zeros(10, 10, dtype=torch.bool)
    chosen = torch.tensor([7, 0, 3])
    allowed[:, chosen] = True
    assert_same([QueryBlock(q_start=0, q_stop=10, keys=chosen)], allowed)


@given(seed=st.integers(0, 2**16), block=st.integers(1, 10))
def test_any_mask_in_any_blocks_equals_dense(seed, block):
    allowed = torch.rand(10, 10, generator=torch.Generator().manual_seed(seed)) < 0.5
    allowed |= torch.eye(10, dtype=torch.bool)
    plan = [
        QueryBlock(q_start=s, q_stop=min(s + block, 10), keys=(slice(0, 10),), mask=allowed[s : s + block])
        for s in range(0, 10, block)
    ]
    assert_same(plan, allowed)


def test_rows_of_a_batch_may_have_masks_of_their_own_made_when_needed():
    document = torch.tensor([[0] * 4 + [1] * 6, [0] * 7 + [1] * 3])
    same = (document[:, None, :, None] == document[:, None, None, :]) & torch.ones(10, 10, dtype=torch.bool).tril()
    plan = [
        QueryBlock(q_start=s, q_stop=s + 5, keys=(slice(0, s + 5),), mask=lambda s=s: same[:, :, s : s + 5, : s + 5])
        for s in (0, 5)
    ]
    assert_same(plan, same)


def test_a_bias_per_head_is_added_to_the_scores():
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
    distance = (torch.arange(10)[:, None] - torch.arange(10)).to(torch.float64)
    bias = -slopes[:, None, None] * distance
    plan = [
        QueryBlock(
            q_start=b.q_start,
            q_stop=b.q_stop,
            keys=b.keys,
            mask=b.mask,
            bias=lambda b=b: bias[:, b.q_start : b.q_stop, : b.q_stop],
        )
        for b in causal_blocks(10, 4)
    ]
    assert_same(plan, torch.ones(10, 10, dtype=torch.bool).tril(), bias=bias)


def test_fewer_queries_than_keys_attend_like_the_last_rows():
    q, k, v = tensors()
    allowed = torch.ones(10, 10, dtype=torch.bool).tril()[6:]
    plan = [QueryBlock(q_start=0, q_stop=4, keys=(slice(0, 10),), mask=allowed)]
    tail = q[:, :, 6:].detach().requires_grad_()
    assert_same(plan, allowed, inputs=(tail, k, v))


def test_gradients_agree_with_finite_differences():
    plan, _ = sliding_with_globals(6, window=2, every=3, block=2)
    q, k, v = tensors(b=1, t=6, k=2, v=2)
    assert gradcheck(lambda q, k, v: blockwise_attention(q, k, v, blocks=plan, softcap=1.5)[0], (q, k, v))
    assert gradcheck(lambda q, k, v: blockwise_attention(q, k, v, blocks=plan)[0], (q, k, v))


def test_bf16_is_as_close_to_fp64_as_its_digits_allow():
    low = tensors(t=64, k=16, v=16, dtype=torch.bfloat16)
    high = tuple(x.detach().double().requires_grad_() for x in low)
    out, _ = blockwise_attention(*low, blocks=causal_blocks(64, 16))
    true, _ = dense(*high, torch.ones(64, 64, dtype=torch.bool).tril())
    assert ((out.double() - true).norm() / true.norm()).item() < 0.01
    seed = torch.linspace(-1, 1, out.numel()).view(out.shape).to(torch.bfloat16)
    made = torch.autograd.grad(out, low, seed)
    for mine, exact in zip(made, torch.autograd.grad(true, high, seed.double()), strict=True):
        assert ((mine.double() - exact).norm() / exact.norm()).item() < 0.02


def test_memory_kept_for_the_backward_pass_grows_linearly_with_length(monkeypatch):
    monkeypatch.setattr(module, "KEPT_PER_INPUT", 4)

    def saved(t):
        sizes = []
        q, k, v = tensors(t=t, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            blockwise_attention(q, k, v, blocks=causal_blocks(t, 32))
        return sum(sizes) / t

    assert saved(512) <= 5 * saved(2048)
    assert saved(2048) == saved(4096)
