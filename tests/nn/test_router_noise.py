"""Noise of routers: normal, of its deviation, only in training, a function of seed, update, tokens and layer."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn import Signals, build
from vitruvius.nn.ops.draws import keys_of_places, normal
from vitruvius.nn.updates import after_step, begin_update
from vitruvius.spec import preset

SMALL = ["width=16", "context=32", "vocab_size=64", "layers=dense moe*2", "blocks.dense.mixer.heads=2"]
SMALL += ["blocks.dense.mixer.kv_heads=1", "blocks.dense.ffn.hidden=16", "blocks.moe.ffn.experts=6"]
SMALL += ["blocks.moe.ffn.expert.hidden=16", "blocks.dense.mixer.sees=causal & sliding(8)"]


def model_with(noise, dtype="fp64"):
    architecture = preset(
        "tiny-llama-moe", overrides=[*SMALL, f"blocks.moe.ffn.router={{kind: softmax, noise: {noise}}}"]
    )
    return build(architecture, dtype=dtype).train()


def routing_of(model, ids, step=1, seed=0):
    begin_update(model, seed=seed, step=step)
    signals = Signals(routing=[])
    with torch.no_grad():
        model.loss(ids, ids, signals=signals)
    return [chosen.view(*ids.shape, -1) for chosen in signals.routing]  # pyright: ignore[reportOptionalIterable]


def ids_of(rows=4, length=24, seed=0):
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_draws_are_normal_and_independent():
    draws = normal(keys_of_places(ids_of(64, 512), 3), 8)
    assert draws.shape == (64 * 512, 8)
    assert torch.isfinite(draws).all()
    assert float(draws.abs().max()) < 5.5
    assert float(draws.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(draws.std()) == pytest.approx(1.0, abs=0.01)
    assert float(draws.pow(4).mean()) == pytest.approx(3.0, abs=0.1)
    assert (torch.corrcoef(draws.T) - torch.eye(8)).abs().max() < 0.02
    flat = draws[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([flat[1:], flat[:-1]]))[0, 1])) < 0.02
    assert draws.unique().numel() > 0.95 * draws.numel() * 0.9


def test_a_row_draws_the_same_whatever_stands_beside_it():
    ids = ids_of()
    whole = keys_of_places(ids, 7).view(4, -1)
    alone = torch.stack([keys_of_places(ids[row : row + 1], 7) for row in range(4)])
    assert torch.equal(whole, alone)
    assert torch.equal(keys_of_places(ids[[2, 0]], 7).view(2, -1), whole[[2, 0]])


def test_another_token_another_place_another_key_is_another_draw():
    ids, other = ids_of(1), ids_of(1)
    other[0, 5] += 1
    keys = keys_of_places(ids, 7)
    assert keys.unique().numel() == 24
    assert not (keys == keys_of_places(other, 7)).any()
    assert not (keys == keys_of_places(ids.roll(1, 1), 7)).any()
    assert not (keys == keys_of_places(ids, 8)).any()


def test_noise_changes_who_is_chosen_in_training_alone():
    ids, noisy, plain = ids_of(), model_with(5.0), model_with(0.0)
    assert not all(map(torch.equal, routing_of(noisy, ids), routing_of(plain, ids)))
    for model in (noisy, plain):
        model.eval()
    assert all(map(torch.equal, routing_of(noisy, ids), routing_of(plain, ids)))


def test_updates_seeds_and_layers_draw_apart_and_repeat():
    ids, model = ids_of(), model_with(50.0)  # so much noise that nothing else decides
    first = routing_of(model, ids, step=1)
    assert all(map(torch.equal, first, routing_of(model, ids, step=1)))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], routing_of(model, ids, step=2)[0])
    assert not torch.equal(first[0], routing_of(model, ids, step=1, seed=1)[0])
    assert float((first[0] == routing_of(model, ids, step=2)[0]).float().mean()) < 0.6


def test_pieces_route_as_the_whole_batch_does():
    ids, model = ids_of(), model_with(5.0)
    whole = routing_of(model, ids)
    for rows in (slice(0, 1), slice(1, 4), slice(2, 3)):
        assert all(
            torch.equal(part, chosen[rows]) for part, chosen in zip(routing_of(model, ids[rows]), whole, strict=True)
        )


def test_enough_noise_spreads_the_load():
    ids = ids_of(16, 32)
    for noise, least in ((0.0, 0.0), (50.0, 0.8)):
        counts = torch.bincount(routing_of(model_with(noise), ids)[0].flatten(), minlength=6).float()
        assert float(counts.min() / counts.mean()) >= least


def test_gradients_flow_past_the_noise_and_are_finite():
    model, ids = model_with(1.0), ids_of()
    after_step(model)
    begin_update(model, seed=0, step=1)
    signals = Signals()
    (model.loss(ids, ids.roll(-1, 1), signals=signals) + sum(signals.losses)).backward()
    router = model.layers[1].ffn.router.weight
    assert torch.isfinite(router.grad).all()
    assert float(router.grad.abs().max()) > 0


def test_without_begin_update_it_draws_all_the_same():
    model, ids = model_with(5.0), ids_of()
    with torch.no_grad():
        assert float(model.loss(ids, ids, signals=Signals())) == float(model.loss(ids, ids, signals=Signals()))
