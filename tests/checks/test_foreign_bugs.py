"""A causal model of somebody else's, right in every way, and the same with one bug at a time: each is caught."""

from __future__ import annotations

from math import sqrt
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vitruvius as vt
from vitruvius.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, WIDTH, HEADS, WINDOW = 37, 16, 2, 9


class Norm(nn.Module):
    """RMSNorm that goes through fp32 whatever the weights are, as most models of others do."""

    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bug = bug

    def forward(self, x_BTD):
        x = x_BTD.to(torch.float32)
        axes = (0, -1) if self.bug == "batch norm" else (-1,)
        x = x * (x.square().mean(axes, keepdim=True) + 1e-6).rsqrt()
        return self.weight * x.to(x_BTD.dtype)


class Attention(nn.Module):
    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.bug = bug

    def forward(self, x_BTD, position_ids, allowed_B1TS, past):
        B, T, _ = x_BTD.shape
        q, k, v = (part.view(B, T, HEADS, -1).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, dim=-1))
        if not (self.bug == "no rotation of a cached key" and past is not None):
            k = rotated(k, position_ids)
        q = rotated(q, position_ids)
        if past is not None:
            old_k, old_v = past
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
            if self.bug == "stale cache":
                v = torch.cat([v[:, :, :1], v[:, :, :-1]], dim=2)
        scores = q @ k.transpose(-1, -2) / sqrt(q.shape[-1])
        weights = scores.masked_fill(~allowed_B1TS, torch.finfo(scores.dtype).min).softmax(-1, dtype=torch.float32)
        if self.bug == "weights that do not sum to one":
            weights = weights * 1.5
        weights = weights.to(v.dtype)
        y = (weights @ v).transpose(1, 2).reshape(B, T, WIDTH)
        return self.out(y), (k, v), weights


def rotated(x_BHTK, position_ids):
    half = x_BHTK.shape[-1] // 2
    angles = position_ids[:, None, :, None].float() / 100.0 ** (torch.arange(half) / half)
    a, b = x_BHTK.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x_BHTK), angles.sin().to(x_BHTK)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Theirs(nn.Module):
    """A decoder with Hugging Face's arguments: mask, positions, cache, labels, attention weights."""

    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.bug = bug
        self.config = SimpleNamespace(vocab_size=VOCABULARY, max_position_embeddings=96)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        blocks = [nn.ModuleDict({"norm": Norm(bug), "attention": Attention(bug)}) for _ in range(2)]
        self.blocks = blocks if bug == "a plain list" else nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.dropout = nn.Dropout(0.1)
        if bug == "dead parameter":
            self.extra = nn.Parameter(torch.randn(WIDTH))
        if bug == "a branch times zero":
            self.branch = nn.Linear(WIDTH, WIDTH)
        if bug == "a table outside the state":
            self.shift = torch.randn(WIDTH)
        std = {"wide init": 3.0, "weights that vanish": 1e-9}.get(bug, 0.3)
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.02 if name.startswith(("embed", "head")) and std == 0.3 else std)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=False,
        output_attentions=False,
    ):
        start = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        B, T = input_ids.shape
        if position_ids is None:
            count = torch.arange(start, start + T) if self.bug != "positions start again" else torch.arange(T)
            position_ids = count.unsqueeze(0).expand(B, -1)
        x = self.stream(input_ids)
        allowed = self.allowed(B, T, start, attention_mask)
        cache, attentions = [], []
        for index, block in enumerate(self.blocks):
            past = None if past_key_values is None else past_key_values[index]
            y, kept, weights = block["attention"](block["norm"](x), position_ids, allowed, past)
            x = y if self.bug == "no residual" and index == 0 else x + y
            cache.append(kept)
            attentions.append(weights)
        if self.bug == "detached":
            x = x.detach() * 0.5 + x * 0.5
        logits = self.head(x * 0.0 if self.bug == "deaf" else x)
        loss = None if labels is None else self.loss(logits, labels)
        return SimpleNamespace(
            loss=loss,
            logits=logits,
            past_key_values=cache if use_cache else None,
            attentions=attentions if output_attentions else None,
        )

    def stream(self, input_ids):
        x = self.embed(input_ids)
        if self.bug == "dropout left on":
            x = F.dropout(x, 0.1, training=True)
        if self.bug == "noise":
            x = x + 0.01 * torch.randn_like(x)
        if self.bug == "its own seed":
            torch.manual_seed(7)
            x = x + 0.01 * torch.randn_like(x)
        if self.bug == "a branch times zero":
            x = x + 0.0 * self.branch(x)
        if self.bug == "a table outside the state":
            x = x + self.shift.to(x)
        if self.bug == "state between calls":
            self.seen = getattr(self, "seen", 0) + input_ids.sum().item() % 97
            x = x + 0.01 * self.seen
        if self.bug == "next token in the stream":
            x = x + 1e-4 * x.roll(-1, dims=1)
        if self.bug == "division by a difference":
            x = x / x.std(dim=1, keepdim=True, correction=0)
        return self.dropout(x)

    def allowed(self, B, T, start, attention_mask):
        q, k = torch.arange(start, start + T).unsqueeze(1), torch.arange(start + T)
        allowed = (k <= q + (1 if self.bug == "mask off by one" else 0)).expand(B, 1, T, start + T)
        if attention_mask is not None and attention_mask.dim() == 4:
            return attention_mask >= 0
        if attention_mask is not None and self.bug != "ignored mask":
            allowed = allowed & attention_mask[:, None, None, : start + T].bool()
            allowed = allowed | (k == q)
        return allowed

    def loss(self, logits, labels):
        if self.bug == "labels not shifted":
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if self.bug == "ignored labels counted":
            kept = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            return kept / labels[:, 1:].numel()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return loss * 1.01 if self.bug == "another loss" else loss


def theirs(bug: str = "") -> nn.Module:
    torch.manual_seed(5)
    return Theirs(bug)


def test_nothing_is_wrong_with_the_model_without_a_bug():
    report = vt.check(theirs())
    assert report.passed, str(report)
    ran = {outcome.name for outcome in report.checks if outcome.applies}
    assert {
        "output-shape", "parameters", "future-leak", "attention-distribution", "receptive-field", "cached-decode",
        "batch-invariance", "padding-invariance", "packed-documents", "gradients", "derivative", "loss", "init-loss",
        "overfits", "bf16", "no-nan", "adversarial", "length-stress", "determinism", "side-effects",
        "round-trip",
    } <= ran | {"packed-documents"}  # fmt: skip
    assert "rows of different lengths" in report["cached-decode"].detail
    assert "padding on the left" in report["padding-invariance"].detail


def test_casts_to_fp32_inside_do_not_widen_the_bound():
    report = vt.check(theirs(), only=["batch-invariance", "cached-decode"])
    assert [outcome.bound for outcome in report.checks] == [1e-9, 1e-9]


@pytest.mark.parametrize(
    ("bug", "red"),
    [
        ("mask off by one", "future-leak"),
        ("mask off by one", "receptive-field"),
        ("mask off by one", "attention-distribution"),
        ("next token in the stream", "future-leak"),
        ("stale cache", "cached-decode"),
        ("no rotation of a cached key", "cached-decode"),
        ("positions start again", "cached-decode"),
        ("ignored mask", "padding-invariance"),
        ("batch norm", "batch-invariance"),
        ("dead parameter", "gradients"),
        ("a branch times zero", "gradients"),
        ("detached", "derivative"),
        ("labels not shifted", "loss"),
        ("ignored labels counted", "loss"),
        ("another loss", "loss"),
        ("dropout left on", "determinism"),
        ("noise", "determinism"),
        ("state between calls", "determinism"),
        ("its own seed", "side-effects"),
        ("a plain list", "parameters"),
        ("weights that do not sum to one", "attention-distribution"),
        ("wide init", "init-loss"),
        ("deaf", "overfits"),
        ("deaf", "future-leak"),
        ("division by a difference", "no-nan"),
    ],
)
def test_a_bug_turns_its_check_red(bug, red):
    report = vt.check(theirs(bug), only=[red])
    assert not report[red].passed, str(report)


@pytest.mark.parametrize(
    ("bug", "red", "words"),
    [
        ("dead parameter", "gradients", "extra takes no part in the loss"),
        ("labels not shifted", "loss", "each token is to predict itself"),
        ("ignored labels counted", "loss", "labels of -100 are counted"),
        ("dropout left on", "determinism", "dropout or noise that eval() leaves on"),
        ("state between calls", "determinism", "keeps state between calls"),
        ("its own seed", "side-effects", "sets torch's global seed"),
        ("a plain list", "parameters", "not registered, so neither moved, saved nor trained: blocks"),
        ("ignored mask", "padding-invariance", "is read although its mask is zero"),
        ("detached", "derivative", "is not the derivative of the loss"),
    ],
)
def test_a_failure_says_what_is_wrong(bug, red, words):
    assert words in vt.check(theirs(bug), only=[red])[red].detail


def test_what_is_lost_on_saving_is_told():
    outcome = vt.check(theirs("a table outside the state"), only=["round-trip"])["round-trip"]
    assert "neither saved nor moved with the model: shift" in outcome.warning


def test_the_model_that_is_given_stays_as_it_was():
    model = theirs("state between calls").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vt.check(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and not hasattr(model, "seen")
    assert all(parameter.grad is None for parameter in model.parameters())


# ----------------------------------------------------------------------------------------------------------------------
# What is said about a model


class Encoder(nn.Module):
    """Every position sees every other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + x.mean(dim=1, keepdim=True))


def test_an_encoder_leaks_until_it_is_called_one():
    assert "causal=False" in vt.check(Encoder(), only=["future-leak"])["future-leak"].detail
    outcome = vt.check(Encoder(), only=["future-leak"], causal=False)["future-leak"]
    assert outcome.passed and not outcome.applies


def test_trained_weights_have_no_first_loss():
    assert not vt.check(Encoder(), only=["init-loss"], weights="trained")["init-loss"].applies


def test_the_vocabulary_is_read_off_the_embedding():
    assert "as many as its first embedding has rows" in vt.check(Encoder(), only=["parameters"]).subject


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"vocab": 3}, "did you mean vocab_size?"),
        ({"vocab_size": 0}, "a whole number from 1 on, not 0"),
        ({"vocab_size": True}, "a whole number from 1 on, not True"),
        ({"causal": 1}, "causal is True or False"),
        ({"weights": "old"}, "'first' or 'trained'"),
    ],
)
def test_a_wrong_word_about_a_model_is_refused(about, words):
    with pytest.raises(UsageError) as caught:
        vt.check(Encoder(), **about)
    assert words in str(caught.value)


def test_a_model_that_tells_no_vocabulary_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match="how many tokens"):
        vt.check(nn.Linear(3, 3))


def test_a_model_without_values_or_that_cannot_be_copied_is_refused():
    with pytest.raises(UsageError, match="meta device"):
        vt.check(theirs().to("meta"))
    locked = theirs()
    locked.stream_of_another = (number for number in range(3))
    with pytest.raises(UsageError, match="cannot be copied"):
        vt.check(locked)


def test_an_unknown_check_is_answered_with_near_ones():
    with pytest.raises(UsageError, match="did you mean future-leak"):
        vt.check(Encoder(), only=["futureleak"])


def test_an_architecture_needs_no_word_about_it():
    with pytest.raises(UsageError, match="tells that itself"):
        vt.check(vt.preset("tiny-llama"), vocab_size=3)
