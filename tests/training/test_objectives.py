"""What each objective asks for: which tokens are targets, what the model may see, and that it is learnable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitruvius.data import Batch
from vitruvius.errors import SpecError, UsageError
from vitruvius.inference import Generation, Sampler, fill
from vitruvius.nn import build
from vitruvius.spec import read_text
from vitruvius.training.checking import ensure
from vitruvius.training.config import TrainConfig
from vitruvius.training.objectives import OBJECTIVES, make_objective

CPU = torch.device("cpu")
BODY = """
name: small
vocab_size: 31
width: 32
context: 16
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: SEES, position: rope}, ffn: {kind: swiglu, hidden: 64}}
"""
CAUSAL = BODY.replace("SEES", "causal") + "layers: a*2\n"
PREFIXED = CAUSAL.replace("position: rope", "position: rope, prefix: open")
MASKED = BODY.replace("SEES", "everything") + "layers: a*2\nhead: mlm\n"
SEQUENCE = (
    BODY.replace("SEES", "everything")
    + """  d:
    mixer: {kind: attention, heads: 2, position: rope}
    cross: {kind: attention, heads: 2}
    ffn: {kind: swiglu, hidden: 64}
layers: d*2
encoder: {layers: a*2}
"""
)


def batch(*, size: int = 4, context: int = 16, epoch: int = 0, first: int = 0) -> Batch:
    tokens = np.random.default_rng(7).integers(0, 30, (size, context + 1))
    places = np.arange(context + 1)
    return Batch(
        inputs=tokens[:, :-1],
        targets=tokens[:, 1:],
        documents=np.broadcast_to(places[:-1] // 8, (size, context)),
        crosses=np.zeros((size, context), dtype=bool),
        sample_ids=np.arange(first, first + size),
        epochs=np.full(size, epoch),
    )


def objective(text: str, **settings: object):
    architecture = read_text(text).architecture
    config = ensure(TrainConfig(steps=10, **settings), architecture)
    return make_objective(config), config


@pytest.mark.parametrize(
    ("text", "expected"), [(CAUSAL, "causal-lm"), (MASKED, "masked-lm"), (SEQUENCE, "continuation")]
)
def test_an_architecture_learns_what_it_is_made_for(text, expected):
    assert objective(text)[1].objective == expected


@pytest.mark.parametrize(
    ("text", "settings", "what"),
    [
        (MASKED, {"objective": "causal-lm"}, "does not fit small, which is made for masked-lm"),
        (CAUSAL, {"objective": "continuation"}, "made for causal-lm"),
        (SEQUENCE, {"objective": "prefix-lm"}, "made for continuation"),
        (CAUSAL, {"objective": "prefix-lm"}, "no mixer reads its prefix"),
        (SEQUENCE + "head: mlm\n", {}, "would read the tokens that it is to predict"),
        (MASKED, {"mask_token": 31}, "outside the vocabulary of 31"),
        (MASKED, {"mask_rate": 0.0}, "out of range"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(text, settings, what):
    with pytest.raises(SpecError, match=what):
        objective(text, **settings)


def test_hidden_tokens_are_a_function_of_seed_epoch_and_sample():
    masked, _ = objective(MASKED, seed=3)
    (whole,) = masked.pieces(batch(), 1, CPU)
    (again,) = masked.pieces(batch(), 1, CPU)
    (tail,) = masked.pieces(batch(size=4, epoch=1), 1, CPU)
    assert torch.equal(whole.tokens, again.tokens)
    assert torch.equal(whole.targets, again.targets)
    assert not torch.equal(whole.targets, tail.targets)
    halves = masked.pieces(batch(), 2, CPU)
    assert torch.equal(torch.cat([half.targets for half in halves]), whole.targets)


def test_masked_targets_are_the_tokens_that_stood_there_and_most_of_them_are_hidden():
    masked, config = objective(MASKED)
    data = batch(size=2000)
    (piece,) = masked.pieces(data, 1, CPU)
    asked = piece.targets != -100
    original = torch.from_numpy(data.inputs)
    assert piece.scored == int(asked.sum())
    assert torch.equal(piece.targets[asked], original[asked])
    assert torch.equal(piece.tokens[~asked], original[~asked])
    assert asked.any(dim=1).all()
    hidden = (piece.tokens[asked] == config.mask_token).double().mean().item()
    # 2,000 x 16 draws: five standard deviations are below 0.011 and 0.03.
    assert asked.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert hidden == pytest.approx(0.8, abs=0.03)


def test_a_prefix_is_no_target_and_everything_after_it_is():
    prefixed, _ = objective(PREFIXED, objective="prefix-lm")
    (piece,) = prefixed.pieces(batch(), 1, CPU)
    for row, prefix in enumerate(piece.prefix):
        assert 1 <= prefix < 16
        assert (piece.targets[row, : prefix - 1] == -100).all()
        assert (piece.targets[row, prefix - 1 :] >= 0).all()


def test_a_continuation_covers_the_second_half_and_its_source_the_first():
    continued, _ = objective(SEQUENCE)
    data = batch()
    (piece,) = continued.pieces(data, 1, CPU)
    assert torch.equal(piece.source, torch.from_numpy(data.inputs[:, :8]))
    assert torch.equal(piece.tokens, torch.from_numpy(data.inputs[:, 7:]))
    assert torch.equal(piece.targets, torch.from_numpy(data.targets[:, 7:]))


@pytest.mark.parametrize(
    ("text", "name"),
    [(CAUSAL, "causal-lm"), (PREFIXED, "prefix-lm"), (MASKED, "masked-lm"), (SEQUENCE, "continuation")],
)
def test_every_objective_can_be_learned_by_heart_and_scores_what_it_trains(text, name):
    goal, _ = objective(text, objective=name)
    model = build(read_text(text).architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    (piece,) = goal.pieces(batch(), 1, CPU)
    first = last = 0.0
    for step in range(40):
        result = goal.train(model, piece)
        last = float(result.loss)
        first = last if step == 0 else first
        optimizer.zero_grad()
        result.objective.backward()
        optimizer.step()
    assert last < 0.5 * first
    with torch.no_grad():
        scores = goal.score(model, piece)
        assert scores[piece.targets == -100].abs().sum() == 0
        expected = goal.train(model, piece).loss
    assert scores.sum().item() / piece.scored == pytest.approx(float(expected), rel=1e-5)
    assert name in OBJECTIVES


def test_masks_are_filled_and_everything_else_is_kept():
    model = build(read_text(MASKED).architecture)
    text = [3, 30, 5, 30, 7]
    filled = fill(model, text, mask=30, sampler=Sampler(temperature=0))
    assert [filled[i] for i in (0, 2, 4)] == [3, 5, 7]
    assert 30 not in filled
    with pytest.raises(UsageError, match="nothing is masked"):
        fill(model, [1, 2], mask=30)
    with pytest.raises(UsageError, match="continues a text"):
        fill(build(read_text(CAUSAL).architecture), [30], mask=30)
    with pytest.raises(UsageError, match="continues no text"):
        Generation(model, [1], max_tokens=3)


def test_an_encoder_reads_the_prompt_and_the_decoder_continues_it():
    model = build(read_text(SEQUENCE).architecture, dtype="fp64")
    prompt = [4, 8, 15, 16, 23]
    made = list(Generation(model, prompt, max_tokens=5, sampler=Sampler(temperature=0)))
    tokens = prompt[-1:]
    with torch.no_grad():
        for _ in range(5):
            logits = model(torch.tensor([tokens]), source=torch.tensor([prompt]))
            tokens.append(int(logits[0, -1].argmax()))
    assert made == tokens[1:]


def test_a_prefix_is_never_empty_and_never_the_whole_and_every_length_is_drawn():
    prefixed, _ = objective(PREFIXED, objective="prefix-lm")
    for context in (1, 2, 3, 16):
        (piece,) = prefixed.pieces(batch(size=600, context=context), 1, CPU)
        # Of a sample of one token there is no other prefix than that token; its target is still outside.
        assert set(piece.prefix) == set(range(1, max(2, context)))
        assert piece.scored == sum(context - prefix + 1 for prefix in piece.prefix)  # pyright: ignore[reportOptionalIterable]
        assert ((piece.targets >= 0).sum(dim=1) >= 1).all()


def test_what_a_prefix_cannot_see_does_not_reach_its_targets():
    """A token after the prefix changes no loss before it; a token in the prefix may change all of them."""
    model = build(read_text(PREFIXED).architecture, dtype="fp64")
    prefixed, _ = objective(PREFIXED, objective="prefix-lm")
    (piece,) = prefixed.pieces(batch(size=1), 1, CPU)
    (prefix,) = piece.prefix  # pyright: ignore[reportGeneralTypeIssues]
    assert prefix < 15
    last = piece.tokens.clone()
    last[0, 15] = (last[0, 15] + 1) % 30
    with torch.no_grad():
        first = model.loss(piece.tokens, piece.targets, prefix=piece.prefix, per_token=True)
        other = model.loss(last, piece.targets, prefix=piece.prefix, per_token=True)
    assert torch.equal(first[0, :15], other[0, :15])
    assert first[0, 15] != other[0, 15]


@pytest.mark.parametrize("context", [1, 2, 3, 16, 17])
def test_a_continuation_asks_for_every_token_after_its_source_whatever_the_length(context):
    continued, _ = objective(SEQUENCE)
    data = batch(context=context)
    (piece,) = continued.pieces(data, 1, CPU)
    half = max(1, context // 2)
    assert piece.source.shape[1] == half
    assert piece.scored == int((piece.targets >= 0).sum()) == 4 * (context - half + 1)
    # The first target is the first token that the source does not hold, the last one the window's last.
    assert torch.equal(piece.targets[:, 0], torch.from_numpy(data.targets[:, half - 1]))
    assert torch.equal(piece.targets[:, -1], torch.from_numpy(data.targets[:, -1]))


def test_of_what_is_hidden_eight_in_ten_become_the_mask_one_another_token_and_one_stays():
    masked, config = objective(MASKED, mask_rate=0.3)
    data = batch(size=6000)
    # Every token of a row is another, so that what was drawn from the row is told from what stayed.
    data = replace(data, inputs=np.argsort(np.random.default_rng(1).random((6000, 30)), axis=1)[:, :16])
    (piece,) = masked.pieces(data, 1, CPU)
    asked = piece.targets != -100
    became = (piece.tokens[asked] == config.mask_token).double().mean().item()
    stayed = (piece.tokens[asked] == piece.targets[asked]).double().mean().item()
    number = int(asked.sum())
    # A replacement is drawn from the row itself, 1 in 16 of which is the token that stood there.
    for share, due in ((became, 0.8), (stayed, 0.1 + 0.1 / 16), (1 - became - stayed, 0.1 * 15 / 16)):
        deviation = (due * (1 - due) / number) ** 0.5
        assert abs(share - due) < 4 * deviation
    rate = number / asked.numel()
    assert abs(rate - 0.3) < 4 * (0.3 * 0.7 / asked.numel()) ** 0.5 + 0.7**16


def test_masked_accuracy_is_the_share_of_hidden_tokens_that_are_likeliest():
    masked, _ = objective(MASKED)
    model = build(read_text(MASKED).architecture, seed=3)
    (piece,) = masked.pieces(batch(size=64), 1, CPU)
    with torch.no_grad():
        judged = masked.judge(model, piece)
        logits = model(piece.tokens, documents=piece.documents)
        scores = masked.score(model, piece)
    asked = piece.targets != -100
    right = int((logits.argmax(dim=-1)[asked] == piece.targets[asked]).sum())
    assert judged.means == {"masked_accuracy": (right, int(asked.sum()))}
    assert torch.equal(judged.nats_BT, scores)
