"""Each block of an architecture is told which backend it gets: the one that its attention then takes."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn import build
from vitruvius.nn.backends import choosing, chunked
from vitruvius.nn.backends.survey import OCCASIONS, survey
from vitruvius.spec import preset
from vitruvius.spec.shrink import shrink


def named(architecture):
    return {(part.block, part.sublayer): part for part in survey(architecture)}


def backends(part):
    return {occasion: None if row is None else row.backend for occasion, row in part.rows.items()}


def test_a_layout_of_three_patterns_gets_three_answers() -> None:
    parts = named(preset("longcontext"))
    assert [block for block, _ in parts] == ["local", "dilated", "full"]
    assert backends(parts["full", "mixer"]) == {
        "train_cpu": "chunked",
        "infer_cpu": "sdpa",
        "decode_cpu": "sdpa",
        "train_cuda": "flex",
        "infer_cuda": "sdpa",
        "decode_cuda": "sdpa",
    }
    assert backends(parts["dilated", "mixer"])["infer_cpu"] == "chunked"
    assert all(set(part.rows) == set(OCCASIONS) for part in parts.values())


@pytest.mark.parametrize(
    ("change", "terms", "train_cuda", "decode"),
    [
        ("position={kind: alibi}", ("bias",), "flex", "sdpa"),
        ("position={kind: fox}", ("decay",), "flex", "sdpa"),
        ("logit_cap=30.0", ("softcap",), "flex", "matmul"),
        ("sinks=learned", ("sink",), "flex", "matmul"),
        ("prefix=open", ("prefix",), "flex", "sdpa"),
        ("position={kind: cope}", (), "own", "own"),
    ],
)
def test_what_joins_the_scores_is_named_and_weighs_in_the_choice(change, terms, train_cuda, decode) -> None:
    (part,) = survey(preset("tiny-llama", overrides=[f"blocks.layer.mixer.{change}"]))
    assert part.terms == terms
    assert backends(part)["train_cuda"] == train_cuda
    assert backends(part)["decode_cpu"] == ("sdpa" if terms == ("sink",) else decode)
    assert backends(part)["decode_cuda"] == decode


def test_an_encoder_never_decodes_and_cross_attention_is_listed_apart() -> None:
    parts = named(preset("seq2seq-small"))
    assert backends(parts["encoder: encode", "mixer"])["decode_cpu"] is None
    assert backends(parts["decode", "cross"])["decode_cpu"] == "sdpa"


@pytest.mark.parametrize("name", ["tiny-longcontext", "tiny-llama"])
def test_what_is_said_is_what_happens(name, monkeypatch) -> None:
    architecture = shrink(preset(name))
    said = {part.rows["infer_cpu"].backend for part in survey(architecture)}
    taken = set()
    for backend in ("chunked", "sdpa"):
        monkeypatch.setitem(
            choosing.BACKENDS,
            backend,
            lambda q, k, v, r, name=backend: (taken.add(name), chunked.chunked(q, k, v, r))[1],
        )
    model = build(architecture)
    with torch.no_grad():
        model(torch.zeros(1, 12, dtype=torch.int64))
    assert taken == said
