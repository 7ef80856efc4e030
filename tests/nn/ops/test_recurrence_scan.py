"""The selective scan and the short convolution against their readable forms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from vitruvius.nn.ops.recurrence import (
    clear_padding,
    selective_scan,
    selective_scan_step,
    selective_scan_steps,
    short_conv,
    short_conv_matmul,
)
from vitruvius.spec.tracing import recurrences


def scan_inputs(*, b=2, t=13, d=3, n=4, strength=1.0, seed=0):
    gen = torch.Generator().manual_seed(seed)

    def made(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    tensors = (made(b, t, d), F.softplus(made(b, t, d)), -strength * made(d, n).exp(), made(b, t, n), made(b, t, n))
    options = {"skip_D": made(d), "state_BDN": made(b, d, n)}
    return [x.requires_grad_() for x in tensors], {name: x.requires_grad_() for name, x in options.items()}


def conv_inputs(*, b=2, t=13, d=3, k=4, seed=0):
    gen = torch.Generator().manual_seed(seed)
    shapes = ((b, t, d), (d, k), (d,), (b, d, k - 1))
    return [torch.randn(*shape, generator=gen, dtype=torch.float64).requires_grad_() for shape in shapes]


def assert_same(one, two, tensors, options):
    leaves = [x for x in (*tensors, *options.values()) if isinstance(x, torch.Tensor) and x.requires_grad]
    results = []
    for function in (one, two):
        out, state = function(*tensors, **options)
        weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape).cos() for y in (out, state)]
        loss = (out * weights[0]).sum() + (state * weights[1]).sum()
        results.append([out, state, *torch.autograd.grad(loss, leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def documents_of(cuts, t):
    return None if cuts is None else torch.stack([torch.tensor([i in row for i in range(t)]).cumsum(0) for row in cuts])


CUTS = st.none() | st.lists(st.sets(st.integers(0, 29), max_size=4), min_size=2, max_size=2)


@given(
    t=st.integers(1, 30),
    d=st.integers(1, 4),
    n=st.integers(1, 5),
    piece=st.sampled_from([1, 60, 200, 1 << 19]),
    strength=st.sampled_from([0.01, 1.0, 20.0]),
    cuts=CUTS,
    seed=st.integers(0, 5),
)
def test_a_selective_scan_in_pieces_equals_its_steps(t, d, n, piece, strength, cuts, seed):
    tensors, options = scan_inputs(t=t, d=d, n=n, strength=strength, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrences, "PIECE", piece)
        documents = documents_of(cuts, t)
        assert_same(selective_scan, selective_scan_steps, tensors, options | {"documents_BT": documents})


def test_a_selective_scan_is_the_formula():
    (x, dt, A, B, C), options = scan_inputs(b=1, t=5, d=2, n=3)
    found, last = selective_scan(x, dt, A, B, C, **options)
    h = options["state_BDN"][0]
    for t in range(5):
        h = (dt[0, t, :, None] * A).exp() * h + dt[0, t, :, None] * x[0, t, :, None] * B[0, t]
        torch.testing.assert_close(found[0, t], h @ C[0, t] + options["skip_D"] * x[0, t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last[0], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", [1, 6, 20])
def test_two_halves_of_a_scan_with_the_state_between_equal_the_whole(first):
    (x, dt, A, B, C), options = scan_inputs(t=21)
    whole, last = selective_scan(x, dt, A, B, C, **options)

    def part(chosen, state):
        cut = (x[:, chosen], dt[:, chosen], A, B[:, chosen], C[:, chosen])
        return selective_scan(*cut, skip_D=options["skip_D"], state_BDN=state)

    one, between = part(slice(None, first), options["state_BDN"])
    two, after = part(slice(first, None), between)
    torch.testing.assert_close(torch.cat([one, two], dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, last, rtol=1e-10, atol=1e-10)


def test_a_scan_step_of_size_zero_leaves_the_state_alone():
    (x, dt, A, B, C), options = scan_inputs(t=9)
    real = torch.arange(9) < torch.tensor([[4], [9]])
    _, last = selective_scan(x, *clear_padding(real, dt), A, B, C, **options)
    cut = (x[:1, :4], dt[:1, :4], A, B[:1, :4], C[:1, :4])
    _, expected = selective_scan(*cut, state_BDN=options["state_BDN"][:1])
    torch.testing.assert_close(last[:1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strength", [1e-3, 20.0, 1e4])
def test_scans_with_decays_of_any_strength_stay_finite_and_accurate(strength, dtype):
    tensors, options = scan_inputs(b=1, t=150, d=8, n=8, strength=strength)
    tensors = [x.detach().to(dtype).requires_grad_() for x in tensors]
    out, state = selective_scan(*tensors, skip_D=options["skip_D"].detach().to(dtype))
    assert out.dtype == dtype
    assert state.dtype == torch.float32
    grads = torch.autograd.grad(out.float().square().sum(), tensors)
    assert all(grad.isfinite().all() for grad in grads)
    true, _ = selective_scan_steps(*(x.double() for x in tensors), skip_D=options["skip_D"].detach().to(dtype).double())
    bound = 2**-7 if dtype == torch.bfloat16 else 2e-4
    torch.testing.assert_close(out.double(), true, rtol=bound, atol=bound * true.abs().max().item())


def test_steps_of_a_scan_count_four_flops_per_number_of_state():
    (x, dt, A, B, C), options = scan_inputs(b=2, t=5, d=3, n=4)
    with FlopCounterMode(display=False) as counter:
        selective_scan_steps(x, dt, A, B, C, **options)
    assert counter.get_total_flops() == 4 * 3 * 4 * (2 * 5)


def test_single_scan_steps_equal_a_piece():
    (x, dt, A, B, C), options = scan_inputs(t=6)
    expected, last = selective_scan(x, dt, A, B, C, **options)
    state = options["state_BDN"]
    for t in range(6):
        y, state = selective_scan_step(
            x[:, t], dt[:, t], A, B[:, t], C[:, t], skip_D=options["skip_D"], state_BDN=state
        )
        torch.testing.assert_close(y, expected[:, t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


@given(
    t=st.integers(1, 30),
    d=st.integers(1, 4),
    k=st.integers(2, 8),
    activation=st.sampled_from(["none", "silu"]),
    cuts=CUTS,
    counts=st.none() | st.lists(st.integers(0, 30), min_size=2, max_size=2),
)
def test_taps_equal_a_matmul_over_unfolded_inputs(t, d, k, activation, cuts, counts):
    x, weight, bias, state = conv_inputs(t=t, d=d, k=k)
    real = None if counts is None else torch.arange(t) < torch.tensor(counts).unsqueeze(1)
    options = {"activation": activation, "documents_BT": documents_of(cuts, t), "real_BT": real}
    assert_same(short_conv, short_conv_matmul, (x, weight, bias), options | {"state_BDK": state})


@pytest.mark.parametrize("kernel", [2, 4, 8])
def test_a_short_convolution_is_torchs_on_the_left_padded_input(kernel):
    x, weight, bias, _ = conv_inputs(t=20, k=kernel)
    padded = F.pad(x.transpose(1, 2), (kernel - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=3)).transpose(1, 2)
    found, state = short_conv(x, weight, bias, activation="silu")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, x[:, 21 - kernel :].transpose(1, 2))


def test_a_convolution_goes_on_where_its_state_left_off():
    x, weight, bias, state = conv_inputs(t=20)
    whole, last = short_conv(x, weight, bias, state_BDK=state)
    parts = []
    for chosen in (slice(0, 1), slice(1, 3), slice(3, 14), slice(14, 20)):
        part, state = short_conv(x[:, chosen], weight, bias, state_BDK=state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, last)


def test_padding_does_not_enter_the_state_of_a_convolution():
    x, weight, bias, state = conv_inputs(t=9)
    counts = [0, 5]
    real = torch.arange(9) < torch.tensor(counts).unsqueeze(1)
    _, last = short_conv(x, weight, bias, state_BDK=state, real_BT=real)
    assert torch.equal(last[0], state[0])
    assert torch.equal(last[1], x[1, 2:5].T)


def test_no_tap_reaches_into_another_document():
    x, weight, bias, _ = conv_inputs(t=12)
    documents = torch.tensor([0] * 2 + [1] + [2] * 9).expand(2, 12)
    packed, _ = short_conv(x, weight, bias, documents_BT=documents)
    for chosen in (slice(0, 2), slice(2, 3), slice(3, 12)):
        alone, _ = short_conv(x[:, chosen], weight, bias)
        torch.testing.assert_close(packed[:, chosen], alone, rtol=1e-12, atol=1e-12)


def test_the_readable_convolution_counts_two_flops_per_tap_and_channel():
    x, weight, bias, _ = conv_inputs(b=2, t=5, d=3, k=4)
    with FlopCounterMode(display=False) as counter:
        short_conv_matmul(x, weight, bias)
    assert counter.get_total_flops() == 2 * 3 * 4 * (2 * 5)
