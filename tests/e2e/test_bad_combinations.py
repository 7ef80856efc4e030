"""Blocks that do not go together, through the command: refused by a rule with the reason, never by a stack trace."""

from __future__ import annotations

import pytest

from vitruvius.cli.main import run

pytestmark = pytest.mark.timeout(120)

GOOD = """\
name: good
vocab_size: 64
width: 32
context: 48
blocks:
  a:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: {kind: rope, theta: 1e4}}
    ffn: {kind: swiglu, hidden: 64}
  b: {extends: a, ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 32}}}
layers: (a b)*2
"""
ROPE = "position: {kind: rope, theta: 1e4}"
MIXER = "{kind: attention, heads: 4, kv_heads: 2, sees: causal, position: {kind: rope, theta: 1e4}}"
LONGROPE = "{kind: longrope, original_context: 16, short_factor: [1.0], long_factor: [1.0]}"
MLM = ("layers: (a b)*2", "layers: (a b)*2\nhead: mlm")

CASES = {
    "expert choice under a causal head": ([("top_k: 2,", "top_k: 2, router: expert-choice,")], "router", "later"),
    "an odd rotary size": ([("heads: 4, kv_heads: 2,", "heads: 4, kv_heads: 2, head_width: 7,")], "position", "7 wide"),
    "an odd rotated part": ([(ROPE, "position: {kind: rope, fraction: 0.4}")], "position", ""),
    "path in both directions": (
        [("sees: causal, " + ROPE, "sees: everything, position: path"), MLM],
        "position",
        "later",
    ),
    "fox in both directions": (
        [("sees: causal, " + ROPE, "sees: everything, position: fox"), MLM],
        "position",
        "later",
    ),
    "a window over the context": ([("sees: causal", "sees: causal & sliding(64)")], "sees", "longer than the context"),
    "cross-attention without an encoder": (
        [("  b: {", "    cross: {kind: attention, heads: 4}\n  b: {")],
        "cross",
        "none",
    ),
    "an encoder that nobody reads": ([("layers: (a", "encoder: {layers: a}\nlayers: (a")], "encoder", "no block"),
    "parallel blocks after norms": (
        [("  b: {", "    order: parallel\n    norm_place: post\n  b: {")],
        "norm_place",
        "parallel",
    ),
    "a stack ahead without that block": ([("layers: (a", "mtp: {block: c}\nlayers: (a")], "mtp", "c"),
    "more groups of experts than experts": (
        [("top_k: 2,", "top_k: 2, router: {kind: sigmoid, groups: 3, top_groups: 1},")],
        "router",
        "3",
    ),
    "keys from a block that stands nowhere": ([("sees: causal, ", "sees: causal, kv_from: c, ")], "kv_from", "c"),
    "keys from itself": ([("sees: causal, ", "sees: causal, kv_from: a, ")], "kv_from", "a"),
    "learned positions inside attention": ([(ROPE, "position: learned")], "position", "embedding"),
    "rotary positions on the embedding": (
        [("layers: (a", "embedding: {position: rope}\nlayers: (a")],
        "position",
        "attention",
    ),
    "a longrope of another width": (
        [
            (
                ROPE,
                f"position: {{kind: rope, scaling: {LONGROPE}}}",
            )
        ],
        "scaling",
        "",
    ),
    "heads that do not divide the width of mamba": (
        [(MIXER, "{kind: mamba2, heads: 3, head_width: 16, groups: 2}")],
        "mixer",
        "",
    ),
    "a residual scale that is no number": ([("  b: {", "    residual_scale: 1/0\n  b: {")], "residual_scale", ""),
    "values by layer of the wrong number": ([("hidden: 64", "hidden: {each: [64, 32, 16]}")], "hidden", "3"),
}


@pytest.mark.parametrize("verb", ["size", "check", "show"])
@pytest.mark.parametrize("name", CASES)
def test_what_does_not_go_together_is_refused_at_its_place_with_the_reason(name, verb, tmp_path, monkeypatch, capsys):
    changes, field, reason = CASES[name]
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    code = run([verb, "bad.yaml"])
    said = capsys.readouterr()
    assert code == 2, said.err
    assert not said.out
    assert "Traceback" not in said.err
    assert "bug in vitruvius" not in said.err
    assert "bad.yaml:" in said.err
    assert field in said.err
    assert reason in said.err
    assert "fix:" in said.err
