"""Linear maps of rows in groups: our own, torch's and the loop are one formula; gathers have exact gradients."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn.ops.grouped import combine, dispatch, fused_linear, grouped_linear, looped_linear

SIZES = [[3, 0, 5, 2], [0, 0, 10, 0], [10, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]


def _maps(dtype, *, bias=False, outs=(7, 5)):
    generator = torch.Generator().manual_seed(0)
    made = []
    for out in outs:
        weight = torch.randn(4, out, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        added = torch.randn(4, out, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        made.append((weight, added if bias else None))
    return made


def _graded(linear, maps, sizes, dtype):
    x = torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    x.requires_grad_()
    inputs = [x, *(tensor for pair in maps for tensor in pair if tensor is not None)]
    outs = linear(x, maps, torch.tensor(sizes))
    total = sum(((i + 2) * out.sin()).sum() for i, out in enumerate(outs))
    return [*outs, *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_grouped_maps_equal_the_loop_forward_and_backward(sizes, bias, dtype, bound):
    maps = _maps(dtype, bias=bias)
    for ours, theirs in zip(
        _graded(grouped_linear, maps, sizes, dtype), _graded(looped_linear, maps, sizes, dtype), strict=True
    ):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if ours.numel():
            assert (ours - theirs).abs().max() <= bound * theirs.abs().max().clamp_min(1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_torchs_grouped_product_equals_the_loop(sizes, bias):
    maps = [
        (torch.randn(4, 8, 8, dtype=torch.bfloat16), torch.randn(4, 8, dtype=torch.bfloat16) if bias else None)
        for _ in range(2)
    ]
    x, sizes_E = torch.randn(sum(sizes), 8, dtype=torch.bfloat16), torch.tensor(sizes)
    for ours, theirs in zip(fused_linear(x, maps, sizes_E), looped_linear(x, maps, sizes_E), strict=True):
        assert (ours - theirs).abs().max() <= 0.05 * theirs.abs().max()


def test_the_gradients_of_grouped_maps_are_those_of_finite_differences():
    maps = _maps(torch.float64, bias=True)
    x = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    flat = [tensor for pair in maps for tensor in pair]

    def run(x, *tensors):
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        return grouped_linear(x, pairs, torch.tensor([3, 0, 5, 2]))

    assert torch.autograd.gradcheck(run, (x, *flat))


def test_frozen_weights_and_inputs_get_no_gradient():
    ((weight, _),) = _maps(torch.float64, outs=(7,))
    x = torch.randn(10, 6, dtype=torch.float64)
    (y,) = grouped_linear(x, [(weight.detach(), None)], torch.tensor([3, 0, 5, 2]))
    assert not y.requires_grad
    (y,) = grouped_linear(x, [(weight, None)], torch.tensor([3, 0, 5, 2]))
    y.sum().backward()
    assert (weight.grad[1] == 0).all()
    assert (weight.grad[0] != 0).any()


def _rows():
    """Six tokens with two rows each, shuffled, and two rows that only fill up."""
    row_NK = torch.randperm(12, generator=torch.Generator().manual_seed(3)).view(6, 2)
    token_R = torch.zeros(14, dtype=torch.int64)
    token_R[row_NK.flatten()] = torch.arange(6).repeat_interleave(2)
    return token_R, row_NK


def test_dispatch_is_a_gather_whose_gradient_ignores_rows_that_only_fill_up():
    token_R, row_NK = _rows()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y = dispatch(x, token_R, row_NK)
    assert torch.equal(y, x[token_R])
    g = torch.randn(14, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad(y, x, g)
    assert torch.allclose(found, g[row_NK].sum(dim=1), rtol=0, atol=1e-14)


def test_combine_is_a_weighted_sum_with_the_gradients_of_one():
    token_R, row_NK = _rows()
    y = torch.randn(14, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    out = combine(y, weights, token_R, row_NK)
    expected = (y[row_NK] * weights.unsqueeze(2)).sum(dim=1)
    assert torch.allclose(out, expected, rtol=0, atol=1e-14)
    g = torch.randn(6, 4, dtype=torch.float64)
    found = torch.autograd.grad(out, [y, weights], g)
    for ours, theirs in zip(found, torch.autograd.grad(expected, [y, weights], g), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
