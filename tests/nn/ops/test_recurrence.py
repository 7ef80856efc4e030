"""Chunked recurrences against the same ones token by token, over random shapes, lengths and documents."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from vitruvius.nn.ops.recurrence import (
    clear_padding,
    diagonal_rank_one,
    diagonal_rank_one_step,
    diagonal_rank_one_steps,
    gated_delta,
    gated_delta_step,
    gated_delta_steps,
)

FAMILY = {
    "linear attention": (None, False),
    "retnet": ("constant", False),
    "mamba2": ("head", False),
    "gla": ("channel", False),
    "deltanet": (None, True),
    "gated deltanet": ("head", True),
    "kda": ("channel", True),
}
"""Name: (kind of decay, whether the delta rule applies)."""


def inputs(member, *, b=2, t=13, g=2, r=1, n=4, p=3, decay=0.5, seed=0, dtype=torch.float64):
    """Queries, keys, values and options of one member of the family, with gradients asked for."""
    gen = torch.Generator().manual_seed(seed)

    def made(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    kind, delta = FAMILY[member]
    h = g * r
    q, k, v = made(b, t, g, n), made(b, t, g, n), made(b, t, h, p)
    options = {"state_BHNP": made(b, h, n, p)}
    if delta:
        k = F.normalize(k, dim=-1)
        options["beta_BTH"] = 2 * made(b, t, h).sigmoid()
    if kind == "constant":
        options["log_decay"] = torch.log1p(-(2.0 ** -torch.arange(2.0, 2.0 + h, dtype=torch.float64))).expand(b, t, h)
    elif kind is not None:
        shape = (b, t, h) if kind == "head" else (b, t, h, n)
        options["log_decay"] = -decay * F.softplus(made(*shape))
    tensors = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    return tensors, {name: x.to(dtype).requires_grad_() for name, x in options.items()}


def rank_one_inputs(*, b=2, t=13, h=2, n=4, p=3, decay=0.5, seed=0):
    (q, k, v), options = inputs("kda", b=b, t=t, g=h, n=n, p=p, decay=decay, seed=seed)
    gen = torch.Generator().manual_seed(seed + 1)
    kappa = F.normalize(torch.randn(b, t, h, n, generator=gen, dtype=torch.float64), dim=-1)
    rate = torch.rand(b, t, h, n, generator=gen, dtype=torch.float64)
    a, b_ = (-kappa).requires_grad_(), (kappa * rate).requires_grad_()
    state = options["state_BHNP"]
    return (q, k, v), {"log_decay_BTHN": options["log_decay"], "a_BTHN": a, "b_BTHN": b_, "state_BHNP": state}


def assert_same(chunked, stepped, tensors, options, **more):
    """Outputs, last states, and gradients of both with respect to every input."""
    leaves = [x for x in (*tensors, *options.values()) if x.requires_grad]
    results = []
    for function, extra in ((chunked, more), (stepped, {k: v for k, v in more.items() if k != "chunk"})):
        out, state = function(*tensors, **options, **extra)
        weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape).cos() for y in (out, state)]
        loss = (out * weights[0]).sum() + (state * weights[1]).sum()
        results.append([out, state, *torch.autograd.grad(loss, leaves, allow_unused=True)])
    for found, expected in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def documents_of(draw_cuts, t, b):
    rows = [torch.tensor([i in cuts for i in range(t)]).cumsum(0) for cuts in draw_cuts[:b]]
    return torch.stack(rows) if rows else None


@given(
    member=st.sampled_from(sorted(FAMILY)),
    t=st.integers(1, 40),
    g=st.integers(1, 2),
    r=st.integers(1, 3),
    n=st.integers(1, 5),
    p=st.integers(1, 4),
    chunk=st.sampled_from([1, 2, 4, 8, 16]),
    decay=st.sampled_from([0.01, 1.0, 20.0]),
    cuts=st.none() | st.lists(st.sets(st.integers(0, 39), max_size=4), min_size=2, max_size=2),
    seed=st.integers(0, 5),
)
def test_chunks_equal_steps_for_every_member_of_the_family(member, t, g, r, n, p, chunk, decay, cuts, seed):
    tensors, options = inputs(member, t=t, g=g, r=r, n=n, p=p, decay=decay, seed=seed)
    documents = None if cuts is None else documents_of(cuts, t, 2)
    assert_same(gated_delta, gated_delta_steps, tensors, options, documents_BT=documents, chunk=chunk)


@given(
    t=st.integers(1, 40),
    h=st.integers(1, 3),
    n=st.integers(1, 5),
    p=st.integers(1, 4),
    chunk=st.sampled_from([1, 2, 4, 8, 16]),
    decay=st.sampled_from([0.01, 1.0, 20.0]),
    cuts=st.none() | st.lists(st.sets(st.integers(0, 39), max_size=4), min_size=2, max_size=2),
    seed=st.integers(0, 5),
)
def test_chunks_equal_steps_for_a_diagonal_plus_a_rank_one_matrix(t, h, n, p, chunk, decay, cuts, seed):
    tensors, options = rank_one_inputs(t=t, h=h, n=n, p=p, decay=decay, seed=seed)
    documents = None if cuts is None else documents_of(cuts, t, 2)
    assert_same(diagonal_rank_one, diagonal_rank_one_steps, tensors, options, documents_BT=documents, chunk=chunk)


@pytest.mark.parametrize("member", sorted(FAMILY))
def test_the_recurrence_is_the_formula(member):
    (q, k, v), options = inputs(member, b=1, t=6, g=1)
    decay, beta = options.get("log_decay"), options.get("beta_BTH")
    state = options["state_BHNP"][0, 0].T  # [P, N], as the formula has it
    found, _ = gated_delta(q, k, v, **options)
    eye = torch.eye(4, dtype=torch.float64)
    for t in range(6):
        k_t, b_t = k[0, t, 0], torch.ones(()) if beta is None else beta[0, t, 0]
        kept = eye if decay is None else torch.diag(decay[0, t, 0].exp().expand(4))
        erased = eye if beta is None else eye - b_t * torch.outer(k_t, k_t)
        state = state @ kept @ erased + b_t * torch.outer(v[0, t, 0], k_t)
        torch.testing.assert_close(found[0, t, 0], state @ q[0, t, 0], rtol=1e-12, atol=1e-12)


def test_diagonal_plus_rank_one_is_the_formula_of_rwkv_7():
    (q, k, v), options = rank_one_inputs(b=1, t=6, h=1)
    found, _ = diagonal_rank_one(q, k, v, **options)
    state = options["state_BHNP"][0, 0].T
    for t in range(6):
        w, a, b = (options[name][0, t, 0] for name in ("log_decay_BTHN", "a_BTHN", "b_BTHN"))
        state = state @ (torch.diag(w.exp()) + torch.outer(a, b)) + torch.outer(v[0, t, 0], k[0, t, 0])
        torch.testing.assert_close(found[0, t, 0], state @ q[0, t, 0], rtol=1e-12, atol=1e-12)


def test_a_delta_rule_is_a_diagonal_plus_a_rank_one_matrix():
    (q, k, v), options = inputs("kda", t=21)
    expected, last = gated_delta(q, k, v, **options)
    decay, beta = options["log_decay"], options["beta_BTH"].unsqueeze(-1)
    found, state = diagonal_rank_one(
        q, k * beta, v, log_decay_BTHN=decay, a_BTHN=-decay.exp() * k, b_BTHN=beta * k, state_BHNP=options["state_BHNP"]
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_one_decay_for_all_channels_is_a_decay_of_the_head():
    (q, k, v), options = inputs("gated deltanet", t=21, r=2)
    expected = gated_delta(q, k, v, **options)
    spread = options | {"log_decay": options["log_decay"].unsqueeze(-1).expand(2, 21, 4, 4)}
    torch.testing.assert_close(gated_delta(q, k, v, **spread), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("member", [*sorted(FAMILY), "rwkv7"])
@pytest.mark.parametrize("first", [1, 7, 16, 20])
def test_two_halves_with_the_state_between_equal_the_whole(member, first):
    if member == "rwkv7":
        tensors, options = rank_one_inputs(t=21)
        function = diagonal_rank_one
    else:
        tensors, options = inputs(member, t=21, r=2)
        function = gated_delta
    whole, last = function(*tensors, **options, chunk=8)

    def part(chosen, state):
        cut = {name: x[:, chosen] for name, x in options.items() if name != "state_BHNP"}
        return function(*(x[:, chosen] for x in tensors), **cut, state_BHNP=state, chunk=8)

    one, between = part(slice(None, first), options["state_BHNP"])
    two, after = part(slice(first, None), between)
    torch.testing.assert_close(torch.cat([one, two], dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("member", [*sorted(FAMILY), "rwkv7"])
def test_documents_packed_into_a_row_equal_each_alone(member):
    make = rank_one_inputs if member == "rwkv7" else lambda **sizes: inputs(member, **sizes)
    function = diagonal_rank_one if member == "rwkv7" else gated_delta
    tensors, options = make(t=21)
    options = {name: x for name, x in options.items() if name != "state_BHNP"}
    documents = torch.tensor([0] * 5 + [1] + [7] * 11 + [0] * 4).expand(2, 21)
    packed, last = function(*tensors, **options, documents_BT=documents, chunk=8)
    for chosen in (slice(0, 5), slice(5, 6), slice(6, 17), slice(17, 21)):
        cut = {name: x[:, chosen] for name, x in options.items()}
        alone, state = function(*(x[:, chosen] for x in tensors), **cut, chunk=8)
        torch.testing.assert_close(packed[:, chosen], alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("member", [*sorted(FAMILY), "rwkv7"])
def test_cleared_padding_leaves_the_state_alone(member):
    make = rank_one_inputs if member == "rwkv7" else lambda **sizes: inputs(member, **sizes)
    function = diagonal_rank_one if member == "rwkv7" else gated_delta
    (q, k, v), options = make(t=13)
    state = options.pop("state_BHNP")
    real = torch.arange(13) < torch.tensor([[4], [9]])
    names = [name for name in options if name != "a_BTHN"]
    k_cleared, *rest = clear_padding(real, k, *(options[name] for name in names))
    _, last = function(q, k_cleared, v, **(options | dict(zip(names, rest, strict=True))), state_BHNP=state)
    for row, count in enumerate((4, 9)):
        cut = {name: x[row : row + 1, :count] for name, x in options.items()}
        inside = (x[row : row + 1, :count] for x in (q, k, v))
        _, expected = function(*inside, **cut, state_BHNP=state[row : row + 1])
        torch.testing.assert_close(last[row : row + 1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strength", [0.0, 20.0, 300.0])
@pytest.mark.parametrize("member", [*sorted(FAMILY), "rwkv7"])
def test_decays_of_any_strength_stay_finite_and_accurate(member, strength, dtype):
    make = rank_one_inputs if member == "rwkv7" else lambda **sizes: inputs(member, **sizes)
    function = diagonal_rank_one if member == "rwkv7" else gated_delta
    exact = diagonal_rank_one_steps if member == "rwkv7" else gated_delta_steps
    tensors, options = make(b=1, t=150, n=8, p=8)
    for name in {"log_decay", "log_decay_BTHN"} & set(options):
        # Now strong, now none at all: sums are large where differences are small.
        keep = torch.arange(150).view(1, 150, *[1] * (options[name].dim() - 2)) % 3 > 0
        options[name] = torch.where(keep, options[name].detach() * 0.01, torch.tensor(-strength).double())
    tensors = [x.detach().to(dtype).requires_grad_() for x in tensors]
    options = {name: x.detach().to(dtype).requires_grad_() for name, x in options.items()}
    out, state = function(*tensors, **options)
    assert out.dtype == dtype
    assert state.dtype == torch.float32
    grads = torch.autograd.grad(out.float().square().sum() + state.square().sum(), [*tensors, *options.values()])
    assert all(grad.isfinite().all() for grad in grads)
    true, last = exact(*(x.double() for x in tensors), **{name: x.double() for name, x in options.items()})
    bound = 2**-7 if dtype == torch.bfloat16 else 2e-4
    torch.testing.assert_close(out.double(), true, rtol=bound, atol=bound * true.abs().max().item())
    torch.testing.assert_close(state.double(), last, rtol=2e-4, atol=2e-4 * last.abs().max().item())


def test_the_delta_rule_stays_bounded_when_one_key_repeats_and_flips():
    """beta = 2 reflects the state at the key each time: the worst case for the inverse within a chunk."""
    k = F.normalize(torch.ones(1, 256, 1, 8), dim=-1)
    v, beta = torch.randn(1, 256, 1, 8, generator=torch.Generator().manual_seed(0)), torch.full((1, 256, 1), 2.0)
    found, _ = gated_delta(k, k, v, beta_BTH=beta)
    true, _ = gated_delta_steps(*(x.double() for x in (k, k, v)), beta_BTH=beta.double())
    torch.testing.assert_close(found.double(), true, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("member", sorted(FAMILY))
def test_steps_count_four_flops_per_number_of_state_and_six_with_a_delta_rule(member):
    (q, k, v), options = inputs(member, b=2, t=5, g=2, r=2, n=4, p=3)
    with FlopCounterMode(display=False) as counter:
        gated_delta_steps(q, k, v, **options)
    each = 6 if FAMILY[member][1] else 4
    assert counter.get_total_flops() == each * 4 * 3 * (2 * 5 * 4)


def test_steps_of_rwkv_7_count_eight_flops_per_number_of_state():
    tensors, options = rank_one_inputs(b=2, t=5, h=2, n=4, p=3)
    with FlopCounterMode(display=False) as counter:
        diagonal_rank_one_steps(*tensors, **options)
    assert counter.get_total_flops() == 8 * 4 * 3 * (2 * 5 * 2)


def test_single_steps_equal_a_chunk():
    (q, k, v), options = inputs("gated deltanet", t=9, r=2)
    expected, last = gated_delta(q, k, v, **options)
    state = options["state_BHNP"]
    for t in range(9):
        decay, beta = options["log_decay"][:, t], options["beta_BTH"][:, t]
        out, state = gated_delta_step(q[:, t], k[:, t], v[:, t], log_decay=decay, beta_BH=beta, state_BHNP=state)
        torch.testing.assert_close(out, expected[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_single_steps_of_rwkv_7_equal_a_chunk():
    tensors, options = rank_one_inputs(t=9)
    expected, last = diagonal_rank_one(*tensors, **options)
    state = options.pop("state_BHNP")
    for t in range(9):
        cut = {name.replace("BTHN", "BHN"): x[:, t] for name, x in options.items()}
        out, state = diagonal_rank_one_step(*(x[:, t] for x in tensors), **cut, state_BHNP=state)
        torch.testing.assert_close(out, expected[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)
