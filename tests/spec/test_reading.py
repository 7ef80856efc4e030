"""From a spec file to an architecture, with every finding at its line."""

from __future__ import annotations

import pytest

import vitruvius as vt
from vitruvius.errors import SpecError, UsageError
from vitruvius.nn import build
from vitruvius.spec import (
    Architecture,
    Block,
    from_plain,
    preset,
    preset_names,
    read,
    read_text,
    read_with_findings,
    to_data,
)
from vitruvius.spec.ffn.mlp import Mlp, SwiGLU
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.norms import LayerNorm, RMSNorm
from vitruvius.spec.positions.rope import RotaryPosition

GOOD = """\
name: arch
vocab_size: 100
width: 32
context: 64
blocks:
  local:
    mixer:
      kind: attention
      heads: 8
      kv_heads: 2
      sees: causal & sliding(16)
      position: {kind: rope, theta: 1e4}
    ffn: {kind: swiglu, hidden: 64}
  full: {extends: local, mixer: {sees: causal}}
layers: local*3 full
"""


def findings_of(text: str, file: str = "arch.yaml", overrides=()):
    with pytest.raises(SpecError) as caught:
        read_text(text, file=file, overrides=overrides)
    return caught.value.findings


def test_a_file_becomes_an_architecture_with_every_field(tmp_path):
    path = tmp_path / "arch.yaml"
    path.write_text(GOOD)
    architecture = read(path)
    assert architecture == Architecture(
        name="arch",
        vocab_size=100,
        width=32,
        context=64,
        blocks={
            "local": Block(
                mixer=Attention(
                    heads=8, kv_heads=2, sees="causal & sliding(16)", position=RotaryPosition(theta=10_000.0)
                ),
                ffn=SwiGLU(hidden=64),
            ),
            "full": Block(
                mixer=Attention(heads=8, kv_heads=2, sees="causal", position=RotaryPosition(theta=10_000.0)),
                ffn=SwiGLU(hidden=64),
            ),
        },
        layers="local*3 full",
    )


def test_the_error_of_the_design_reads_as_the_design_has_it():
    (finding,) = findings_of(GOOD.replace("kv_heads: 2", "kv_heads: 3"))
    assert str(finding) == (
        "arch.yaml:10:17  blocks.local.mixer.kv_heads\n  3 does not divide heads=8\n  fix: use one of 1, 2, 4, 8"
    )


def test_all_findings_come_at_once_in_the_order_of_the_file():
    text = GOOD.replace("width: 32", "width: 32.5").replace("heads: 8", "heads: -8").replace("hidden: 64", "hiden: 64")
    found = findings_of(text)
    assert [finding.line for finding in found] == sorted(finding.line for finding in found)
    assert {"width", "blocks.local.mixer.heads"} <= {finding.path for finding in found}
    assert any("did you mean 'hidden'?" in finding.fix for finding in found)


def test_rules_of_sound_blocks_are_reported_beside_faults_elsewhere():
    found = findings_of(GOOD.replace("kv_heads: 2", "kv_heads: 3").replace("name: arch", "name: 7"))
    assert {"name", "blocks.local.mixer.kv_heads"} <= {finding.path for finding in found}


def test_an_inherited_leaf_is_reported_at_the_line_where_it_was_written():
    found = findings_of(GOOD.replace("mixer: {sees: causal}", "mixer: {heads: 1, head_width: 8}"))
    (finding,) = found
    assert finding.path == "blocks.full.mixer.kv_heads"
    assert (finding.line, finding.column) == (10, 17)
    assert finding.what == "2 does not divide heads=1"


def test_what_several_blocks_inherit_from_one_line_is_said_once():
    assert len(findings_of(GOOD.replace("kv_heads: 2", "kv_heads: 3"))) == 1


def test_a_leaf_from_set_is_reported_there_and_not_in_the_file():
    (finding, *_) = findings_of(GOOD, overrides=["blocks.local.mixer.kv_heads=3"])
    assert finding.file.startswith("--set")
    assert "3 does not divide heads=8" in finding.what


def test_set_comes_before_extends_so_that_children_follow():
    architecture = read_text(GOOD, overrides=["blocks.local.ffn.hidden=128"]).architecture
    assert architecture.blocks["full"].ffn == SwiGLU(hidden=128)


def test_a_bare_name_means_a_kind():
    architecture = read_text(GOOD + "norm: layernorm\n").architecture
    assert architecture.norm == LayerNorm()
    assert read_text(GOOD).architecture.norm == RMSNorm()


def test_a_mapping_of_another_kind_replaces_its_parents_whole():
    child = "  other: {extends: local, ffn: {kind: mlp, hidden: 16}}\n"
    text = GOOD.replace("layers: local*3 full", "layers: local full other").replace("layers:", child + "layers:")
    architecture = read_text(text).architecture
    assert architecture.blocks["other"].ffn == Mlp(hidden=16)


def test_none_removes_what_was_inherited():
    child = "  bare: {extends: local, mixer: {position: none}}\n"
    text = GOOD.replace("layers: local*3 full", "layers: local full bare").replace("layers:", child + "layers:")
    assert read_text(text).architecture.blocks["bare"].mixer.position is None


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (("kind: swiglu", "kind: swigloo"), "blocks.local.ffn.kind", "did you mean 'swiglu'?"),
        (("width: 32", "wdith: 32"), "wdith", "did you mean 'width'?"),
        (("name: arch\n", ""), "", "add name"),
        (("width: 32", 'width: "32"'), "width", "remove the quotes"),
        (("width: 32", "width: 32.0"), "width", "write 32"),
        (("width: 32", "width: 0"), "width", "use a number > 0"),
        (("context: 64", "context: 4294967296"), "context", "use a number <= 2,147,483,647"),
        (("theta: 1e4", "theta: fast"), "blocks.local.mixer.position.theta", "write a number"),
        (("kind: rope", "kid: rope"), "blocks.local.mixer.position", "kind"),
        (("sees: causal & sliding(16)", "sees: 7"), "blocks.local.mixer.sees", "write text"),
        (("sees: causal & sliding(16)", "sees: causal & slidng(16)"), "blocks.local.mixer.sees", "sliding"),
        (("layers: local*3 full", "layers: local*3 ful"), "layers", "full"),
        (("layers: local*3 full", "layers: [local*3, 7]"), "layers", "write text"),
        (("hidden: 64}", "hidden: 64, activation: relu}"), "blocks.local.ffn.activation", "the fields here are"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_way_out(change, path, says):
    assert change[0] in GOOD
    found = findings_of(GOOD.replace(*change))
    texts = [f"{finding.what} {finding.fix}" for finding in found if finding.path.startswith(path)]
    assert any(says in text for text in texts), [str(finding) for finding in found]
    assert all(finding.line for finding in found)
    assert all(finding.fix for finding in found)


def test_warnings_and_notes_do_not_stop_reading():
    reading = read_text(GOOD.replace("layers: local*3 full", "layers: local*3"))
    (note,) = [finding for finding in reading.findings if finding.severity == "note"]
    assert note.path == "blocks.full"
    assert note.what == "no layer uses this block"
    assert note.line == 14


def test_a_preset_is_found_by_name_and_read_with_its_warnings():
    reading = read_with_findings("longcontext")
    assert reading.architecture == preset("longcontext") == read("longcontext")
    assert reading.file == "longcontext.yaml"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_named_like_its_file(name):
    architecture = preset(name)
    assert architecture.name == name
    assert architecture.description


def test_an_unknown_preset_is_answered_with_its_neighbours():
    with pytest.raises(UsageError) as caught:
        preset("lama-moe")
    assert "llama-moe" in caught.value.fix


@pytest.mark.parametrize("spec", ["", "no-such-thing.yaml", "dir/none.yaml", "a\0b"])
def test_what_is_no_spec_is_refused_with_a_way_out(spec):
    with pytest.raises(UsageError) as caught:
        read(spec)
    assert caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("name", preset_names())
def test_plain_data_holds_all_of_a_preset(name):
    assert from_plain(to_data(preset(name))) == preset(name)


def test_plain_data_of_another_shape_is_refused_in_words():
    data = to_data(preset("tiny-llama")) | {"width": -1, "colour": "red"}
    with pytest.raises(SpecError) as caught:
        from_plain(data)
    assert {finding.path for finding in caught.value.findings} == {"width", "colour"}


BROKEN = Architecture(
    name="broken",
    vocab_size=100,
    width=32,
    context=64,
    blocks={"layer": Block(mixer=Attention(heads=8, kv_heads=3), ffn=SwiGLU(hidden=8))},
    layers="layer",
)


@pytest.mark.parametrize("entrance", [vt.size, vt.build, vt.check, lambda a: build(a, device="meta")])
def test_an_architecture_built_in_python_is_checked_at_every_entrance(entrance):
    with pytest.raises(SpecError) as caught:
        entrance(BROKEN)
    (finding,) = caught.value.findings
    assert str(finding) == "blocks.layer.mixer.kv_heads\n  3 does not divide heads=8\n  fix: use one of 1, 2, 4, 8"
