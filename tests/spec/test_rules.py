"""Each rule is triggered once, names its place, and says the way out."""

from __future__ import annotations

from dataclasses import replace
from math import cos

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import Architecture, Block, Claim, ensure, findings, preset, preset_names
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.positions.alibi import ALiBi
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.positions.scalings import LinearScaling, Llama3Scaling
from vitruvius.spec.positions.tables import LearnedPosition, SinusoidalPosition
from vitruvius.spec.routers.softmax import SoftmaxRouter

ATTENTION = Attention(heads=4, kv_heads=2)
FFN = SwiGLU(hidden=16)
SOUND = Architecture(
    name="sound",
    vocab_size=50,
    width=32,
    context=64,
    blocks={"layer": Block(mixer=ATTENTION, ffn=FFN)},
    layers="layer*2",
)


def with_mixer(**fields) -> Architecture:
    return replace(SOUND, blocks={"layer": Block(mixer=replace(ATTENTION, **fields), ffn=FFN)})


def with_ffn(ffn) -> Architecture:
    return replace(SOUND, blocks={"layer": Block(mixer=ATTENTION, ffn=ffn)})


def moe(**fields) -> Moe:
    return Moe(**({"experts": 4, "top_k": 2, "expert": FFN} | fields))


ERRORS = {
    "a name with a slash": (replace(SOUND, name="a/b"), "name", "cannot name files"),
    "no blocks": (replace(SOUND, blocks={}), "blocks", "there are no blocks"),
    "a block called 4": (replace(SOUND, blocks={"4": SOUND.blocks["layer"]}), "blocks.4", "cannot stand in a layer"),
    "an empty block": (replace(SOUND, blocks={"layer": Block()}), "blocks.layer", "does nothing"),
    "unknown layer": (replace(SOUND, layers="layer other"), "layers", "other"),
    "unbalanced line": (replace(SOUND, layers="(layer"), "layers", ""),
    "stacked lines that clash": (
        replace(SOUND, layers=["layer*2", "layer*2"]),
        "layers",
        "both set",
    ),
    "stacked lines of unequal length": (
        replace(SOUND, blocks={"m": Block(mixer=ATTENTION), "f": Block(ffn=FFN)}, layers=["m*2", "f*3"]),
        "layers",
        "",
    ),
    "kv_heads": (with_mixer(kv_heads=3), "blocks.layer.mixer.kv_heads", "3 does not divide heads=4"),
    "heads": (with_mixer(heads=5, kv_heads=5), "blocks.layer.mixer.heads", "5 does not divide width=32"),
    "score_scale": (with_mixer(score_scale="1/0"), "blocks.layer.mixer.score_scale", "zero"),
    "embedding position in a mixer": (
        with_mixer(position=LearnedPosition()),
        "blocks.layer.mixer.position",
        "added to the embedding",
    ),
    "rotation of odd heads": (
        with_mixer(position=RotaryPosition(), head_width=5),
        "blocks.layer.mixer.position",
        "a head is 5 wide",
    ),
    "llama3 ramp": (
        with_mixer(position=RotaryPosition(scaling=Llama3Scaling(factor=8.0, original_context=8, low=4.0, high=4.0))),
        "blocks.layer.mixer.position.scaling.high",
        "larger than low",
    ),
    "pattern that cannot be read": (with_mixer(sees="causal & window(3)"), "blocks.layer.mixer.sees", "window"),
    "pattern without parentheses": (
        with_mixer(sees="causal & sliding(8) | sinks(3)"),
        "blocks.layer.mixer.sees",
        "",
    ),
    "window beyond the context": (
        with_mixer(sees="causal & sliding(65)"),
        "blocks.layer.mixer.sees",
        "longer than the context",
    ),
    "empty rows": (
        with_mixer(sees="causal & global(every=4, offset=2)"),
        "blocks.layer.mixer.sees",
        "positions 0, 1 see no key",
    ),
    "the future": (with_mixer(sees="sliding(8) | global(every=4)"), "blocks.layer.mixer.sees", "see later ones"),
    "top_k": (with_ffn(moe(top_k=5)), "blocks.layer.ffn.top_k", "5 experts per token, and there are 4"),
    "mixture in a mixture": (with_ffn(moe(expert=moe())), "blocks.layer.ffn.expert", "cannot be a mixture"),
    "shared mixture": (with_ffn(moe(shared_expert=moe())), "blocks.layer.ffn.shared_expert", "cannot be a mixture"),
    "attention position in the embedding": (
        replace(SOUND, embedding=Embedding(position=ALiBi())),
        "embedding.position",
        "act inside attention",
    ),
    "embedding scale": (replace(SOUND, embedding=Embedding(scale="sqrt(depth)")), "embedding.scale", "depth"),
    "short table": (
        replace(SOUND, embedding=Embedding(position=LearnedPosition(size=32))),
        "embedding.position.size",
        "cannot hold the context",
    ),
    "table that starts beyond its end": (
        replace(SOUND, embedding=Embedding(position=LearnedPosition(start=65))),
        "embedding.position.start",
        "may grow to 64",
    ),
    "unreadable claim": (
        replace(SOUND, claims=[Claim(about="parameters", says="many")]),
        "claims.0.says",
        "",
    ),
    "a million billion parameters": (
        replace(SOUND, width=2**31 - 4, vocab_size=2**31 - 1),
        "width",
        "more than anyone builds",
    ),
}


def test_the_sound_architecture_has_no_findings():
    assert findings(SOUND) == []


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_found_with_its_place_and_the_way_out(name):
    architecture, path, says = ERRORS[name]
    found = [finding for finding in findings(architecture) if finding.severity == "error"]
    assert any(finding.path == path and says in finding.what for finding in found), [str(f) for f in found]
    assert all(finding.fix for finding in found)
    with pytest.raises(SpecError):
        ensure(architecture)


WARNINGS = {
    "scaling that does not reach": (
        with_mixer(position=RotaryPosition(scaling=LinearScaling(factor=2.0, original_context=8))),
        "warning",
        "blocks.layer.mixer.position.scaling.factor",
        "reaches 16 tokens",
    ),
    "theta too small": (
        replace(with_mixer(position=RotaryPosition(theta=100.0)), context=4096),
        "warning",
        "blocks.layer.mixer.position.theta",
        "no longer prefers near keys",
    ),
    "a router without gradient": (
        with_ffn(moe(top_k=1, router=SoftmaxRouter(balance_loss=0.0))),
        "warning",
        "blocks.layer.ffn.router.renormalise",
        "never learns",
    ),
    "unused block": (
        replace(SOUND, blocks={**SOUND.blocks, "spare": Block(ffn=FFN)}),
        "note",
        "blocks.spare",
        "no layer uses",
    ),
    "keys nobody reads": (
        with_mixer(sees="causal & (global(every=2) | sinks(1))"),
        "note",
        "blocks.layer.mixer.sees",
        "nobody reads",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_worth_knowing_does_not_stop_anyone(name):
    architecture, severity, path, says = WARNINGS[name]
    found = findings(architecture)
    assert any(f.severity == severity and f.path == path and says in f.what for f in found), [str(f) for f in found]
    ensure(architecture)


def test_every_finding_is_reported_at_once():
    both = replace(
        SOUND,
        name="a/b",
        blocks={"layer": Block(mixer=replace(ATTENTION, kv_heads=3), ffn=moe(top_k=9))},
        embedding=Embedding(scale="x"),
    )
    with pytest.raises(SpecError) as caught:
        ensure(both)
    paths = {finding.path for finding in caught.value.findings}
    assert paths == {"name", "blocks.layer.mixer.kv_heads", "blocks.layer.ffn.top_k", "embedding.scale"}


def test_sinusoids_fit_any_context():
    assert findings(replace(SOUND, context=10**6, embedding=Embedding(position=SinusoidalPosition()))) == []


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_has_an_error(name):
    assert not [finding for finding in findings(preset(name)) if finding.severity == "error"]


def test_the_documents_theta_is_too_small_for_its_context():
    position = RotaryPosition(theta=1e4)
    frequencies = position.frequencies(128)
    sums = [sum(cos(distance * frequency) for frequency in frequencies) for distance in range(1, 1708)]
    assert sums[-1] < 0 <= min(sums[:-1])
    named = position.first_negative(128, 102_400)
    assert named is not None
    assert 1707 <= named < 2048
    assert sum(cos(named * frequency) for frequency in frequencies) < 0
