"""Linear-time mixers compute what their papers say, over chunks, caches and documents alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitruvius.nn import build
from vitruvius.spec import read_text

KINDS = {
    "mamba": "{kind: mamba, state: 4, dt_rank: 3}",
    "mamba with inner norms": "{kind: mamba, state: 4, dt_rank: 3, inner_norm: rmsnorm}",
    "mamba2": "{kind: mamba2, heads: 4, head_width: 6, groups: 2, state: 5}",
    "gated-deltanet": "{kind: gated-deltanet, heads: 4, key_heads: 2, head_width: 6, value_width: 5}",
    "deltanet": "{kind: gated-deltanet, heads: 2, decay: none, eigenvalues: both}",
    "kda": "{kind: kda, heads: 2, head_width: 6, value_width: 5, rank: 3}",
    "gla": "{kind: gla, heads: 2, head_width: 6, value_width: 5, rank: 3, slowness: 2}",
    "retnet": "{kind: retnet, heads: 2, head_width: 6, value_width: 5}",
    "rwkv7": "{kind: rwkv7, head_width: 4, decay_rank: 3, rate_rank: 3, gate_rank: 3}",
    "short-conv": "{kind: short-conv, conv: 4, bias: all}",
}
LENGTH = 150


def model_of(mixer: str, *, dtype="fp64", layers="a*2", seed=3, jitter=0.3):
    text = f"""
name: t
vocab_size: 61
width: 16
context: 256
blocks:
  a: {{mixer: {mixer}, ffn: {{kind: swiglu, hidden: 24}}}}
layers: {layers}
"""
    model = build(read_text(text).architecture, dtype=dtype, seed=seed)
    gen = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                jitter * torch.randn(parameter.shape, generator=gen, dtype=torch.float64).to(parameter.dtype)
            )
    return model


def tokens(batch=2, length=LENGTH):
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_goes_on_across_chunks(kind):
    model, ids = model_of(KINDS[kind]), tokens()
    with torch.no_grad():
        full = model(ids)
        cache = model.cache(2, capacity=LENGTH)
        parts = [model(part, cache=cache) for part in ids.split([70, 1, 1, 65, 13], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_longer_than_a_chunk_stay_apart(kind):
    model, ids = model_of(KINDS[kind]), tokens()
    documents = torch.tensor([0] * 66 + [1] * 2 + [2] * 82).expand(2, LENGTH)
    with torch.no_grad():
        packed = model(ids, documents=documents)
        alone = [model(part) for part in ids.split([66, 2, 82], dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_steps_have_the_same_gradients(kind):
    model, ids = model_of(KINDS[kind]), tokens(length=80)
    found = []
    for backend in ("auto", "reference"):
        model.backend = backend
        model.zero_grad(set_to_none=True)
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_a_bf16_model_is_in_fp32_and_finite_after_training_on_long_rows(kind):
    model, ids = model_of(KINDS[kind], dtype="bf16", jitter=0.0), tokens()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    cache = model.cache(2, capacity=LENGTH)
    with torch.no_grad():
        assert model(ids, cache=cache).isfinite().all()
    named = cache.layers[0].mixer.named
    assert all(tensor.dtype == (torch.float32 if name == "state" else torch.bfloat16) for name, tensor in named.items())


def mixer_of(kind: str):
    """A mixer, an input, and what it makes of it."""
    mixer = model_of(KINDS[kind], layers="a").layers[0].mixer
    x = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    from vitruvius.nn.place import Place

    with torch.no_grad():
        return mixer, x[0], mixer(x, Place(positions=torch.arange(9)))[0]


def rms(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def test_gla_is_the_papers():
    m, x, found = mixer_of("gla")
    q, k, v = (linear(x).view(9, 2, -1) for linear in (m.q, m.k, m.v))
    g = (F.logsigmoid(m.decay_up(m.decay_down(x))) / 2).exp().view(9, 2, -1)
    state, rows = torch.zeros(2, 5, 6, dtype=torch.float64), []
    for t in range(9):
        state = state * g[t].unsqueeze(1) + v[t].unsqueeze(2) * k[t].unsqueeze(1)
        rows.append((state @ q[t].unsqueeze(2)).squeeze(2) / 6**0.5)
    y = rms(torch.stack(rows), 1e-5) * m.norm.weight * F.silu(m.gate(x).view(9, 2, -1))
    torch.testing.assert_close(found, m.out(y.flatten(1)), rtol=1e-9, atol=1e-9)


def test_retention_is_attention_with_powers_of_a_constant():
    m, x, found = mixer_of("retnet")
    q, k, v = (linear(x).view(9, 2, -1) for linear in (m.q, m.k, m.v))
    angles = torch.arange(9.0, dtype=torch.float64).unsqueeze(1) * 1e4 ** (-torch.arange(0, 6, 2).double() / 6)

    def turned(part):
        first, second = part.chunk(2, dim=-1)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    q, k = turned(q), turned(k) / 6**0.5
    keep = 1 - 2.0 ** -torch.tensor([5.0, 6.0], dtype=torch.float64)
    apart = (torch.arange(9).unsqueeze(1) - torch.arange(9)).double()
    weights = torch.where(apart >= 0, keep[:, None, None] ** apart.clamp(min=0), 0.0)
    y = torch.einsum("thn,shn,hts,shp->thp", q, k, weights, v)
    y = rms(y, 1e-6).flatten(1) * F.silu(m.gate(x))
    torch.testing.assert_close(found, m.out(y), rtol=1e-6, atol=1e-6)  # angles are kept in fp32


def test_rwkv_7_is_the_papers():
    m, x, found = mixer_of("rwkv7")
    before = torch.cat([torch.zeros(1, 16, dtype=torch.float64), x[:-1]])
    mixed = {name: x + (before - x) * getattr(m, f"mix_{name}") for name in ("r", "w", "k", "v", "a", "g")}
    r, k, v = m.r(mixed["r"]), m.k(mixed["k"]), m.v(mixed["v"])
    w = m.decay_bias + m.decay_up(m.decay_down(mixed["w"]).tanh())
    decay = torch.exp(-torch.exp(-F.softplus(-w) - 0.5))  # as the published code writes it
    a = (m.rate_bias + m.rate_up(m.rate_down(mixed["a"]))).sigmoid()
    kappa = F.normalize((k * m.removal).view(9, 4, 4), dim=-1)
    k = k * (1 + (a - 1) * m.replacement)
    r, k, v, decay, a = (part.view(9, 4, 4) for part in (r, k, v, decay, a))
    state, rows = torch.zeros(4, 4, 4, dtype=torch.float64), []
    for t in range(9):
        edit = torch.diag_embed(decay[t]) - kappa[t].unsqueeze(2) * (a[t] * kappa[t]).unsqueeze(1)
        state = state @ edit + v[t].unsqueeze(2) * k[t].unsqueeze(1)
        rows.append((state @ r[t].unsqueeze(2)).squeeze(2))
    y = F.group_norm(torch.stack(rows).flatten(1), 4, m.norm.weight, m.norm.bias, eps=64e-5)
    y = y + ((r * k * m.bonus.view(4, 4)).sum(-1, keepdim=True) * v).flatten(1)
    y = m.out(y * m.gate_up(m.gate_down(mixed["g"]).sigmoid()))
    torch.testing.assert_close(found, y, rtol=1e-5, atol=1e-5)  # a length of 1 has 1e-6 added to its square


def test_rwkv_7_mixes_in_the_values_of_the_first_layer():
    text = """
name: t
vocab_size: 61
width: 16
context: 256
blocks:
  first: {mixer: {kind: rwkv7, head_width: 4, decay_rank: 3, rate_rank: 3, gate_rank: 3}, ffn: {kind: mlp, hidden: 24}}
  rest: {extends: first, mixer: {value_from: first, value_rank: 2}}
layers: first rest*2
"""
    model, ids = build(read_text(text).architecture, dtype="fp64", seed=1), tokens()
    with torch.no_grad():
        full = model(ids)
        cache = model.cache(2, capacity=LENGTH)
        parts = [model(part, cache=cache) for part in ids.split([70, 1, 79], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-9, atol=1e-9)
        # A share of nothing leaves each layer its own values; what the first layer's were then no longer matters.
        for layer in (1, 2):
            model.layers[layer].mixer.value_bias.fill_(-1e4)
            model.layers[layer].mixer.value_up.weight.zero_()
        assert not torch.allclose(model(ids), full)


def test_first_values_are_those_of_the_papers():
    mixer = model_of("{kind: mamba2, heads: 4, head_width: 8}", layers="a", jitter=0.0).layers[0].mixer
    assert torch.equal(mixer.A_log.float(), torch.arange(1.0, 5.0).log())
    assert torch.equal(mixer.D, torch.ones_like(mixer.D))
    assert mixer.conv.weight.abs().max() <= 0.5
    assert mixer.conv.weight.std() > 0.2
    many = model_of("{kind: gated-deltanet, heads: 64, head_width: 2}", layers="a", jitter=0.0).layers[0].mixer
    steps = F.softplus(many.dt_bias)
    assert steps.min() >= 1e-3 * (1 - 1e-4)
    assert steps.max() <= 1e-1 * (1 + 1e-4)
    assert 0.3 < (steps < 1e-2).double().mean() < 0.7
    assert many.A_log.exp().max() <= 16
    assert 6 < many.A_log.exp().mean() < 10
    rows = model_of("{kind: mamba, state: 4}", layers="a", jitter=0.0).layers[0].mixer.A_log.float()
    assert torch.equal(rows, torch.arange(1.0, 5.0).log().expand(32, 4))
    ramp = model_of(KINDS["rwkv7"], layers="a", jitter=0.0).layers[0].mixer.decay_bias
    torch.testing.assert_close(ramp.float(), torch.linspace(-6.5, -1.5, 16))
