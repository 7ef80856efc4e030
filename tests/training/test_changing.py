"""What a run may have otherwise when it goes on, and what it may not."""

from __future__ import annotations

import json

import pytest
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]

from vitruvius.cli.main import run as vitruvius
from vitruvius.errors import SpecError, UsageError
from vitruvius.training import resume
from vitruvius.training.changing import changes_of
from vitruvius.training.checking import WITHOUT_EFFECT
from vitruvius.training.settings import SECTIONS, Loader, Watch


@pytest.fixture
def half(dense, run_of):
    listener = StopAfter(3, 15)
    return run_of(dense, "half", listener=listener, stop=listener.stop).run


def test_another_loader_watch_checkpointing_and_retention_end_in_the_same_bits(dense, run_of, half, capsys):
    straight = run_of(dense, "straight").run
    settings = ["checkpointing=layers/2", "loader.workers=1", "recovery.save=behind", "watch.every=2", "keep=1"]
    arguments = [text for setting in settings for text in ("--set", f"train.{setting}")]
    assert vitruvius(["train", "--resume", str(half), *arguments]) == 0
    capsys.readouterr()
    assert final_manifest(half) == final_manifest(straight)
    measured = [row for row in rows(half) if any(key.startswith("stream_rms/") for key in row)]
    assert [row["step"] for row in measured] == [4, 6]
    assert len(list((half / "checkpoints").iterdir())) == 1
    events = [json.loads(line) for line in (half / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (said,) = [event for event in events if event["kind"] == "settings"]
    assert (said["checkpointing"], said["keep"], said["loader"]["workers"]) == ("layers/2", 1, 1)


def test_a_section_that_is_changed_in_part_keeps_the_rest(dense, run_of):
    run = run_of(dense, "watched", steps=2, watch=Watch(every=2, rows=2), loader=Loader(ahead=7)).run
    changed = changes_of(run, ["train.watch.every=1", "train.loader.workers=1"])
    assert changed == {"watch": Watch(every=1, rows=2), "loader": Loader(ahead=7, workers=1)}
    assert changes_of(run, []) == {}


@pytest.mark.parametrize(
    "text", ["train.lr=1", "train.steps=9", "width=64", "train.guard.spike=skip", "train", "data=x", "train.nothing=1"]
)
def test_what_decides_what_is_learned_is_refused_and_the_way_out_is_named(half, text, capsys):
    before = final_manifest(half)
    assert vitruvius(["train", "--resume", str(half), "--set", text]) == 2
    said = capsys.readouterr().err
    assert text.partition("=")[0] in said or "NAME=VALUE" in said
    assert "Traceback" not in said
    assert final_manifest(half) == before


@pytest.mark.parametrize("text", ["train.keep=0", "train.checkpointing=some", "train.loader.worker=2", "train.watch=7"])
def test_a_value_that_cannot_be_is_found_before_the_run_is_touched(half, text):
    events = (half / "events.jsonl").read_bytes()
    with pytest.raises(SpecError):
        changes_of(half, [text])
    assert (half / "events.jsonl").read_bytes() == events


@pytest.mark.parametrize("text", ["train.engine.kind=ddp", "train.engine={kind: fsdp2}"])
def test_an_engine_of_several_processes_needs_them(half, text):
    with pytest.raises(UsageError, match="torchrun"):
        changes_of(half, [text])


def test_from_python_the_same_names_are_refused(half):
    with pytest.raises(UsageError, match="'lr' cannot change"):
        resume(half, changes={"lr": 1.0})


def test_every_name_that_may_change_is_a_setting_without_effect():
    assert {"checkpointing", "compile", "data_check", "keep", "memory_check"} <= WITHOUT_EFFECT
    assert {name for name, section in SECTIONS.items() if section.effect == "none"} <= WITHOUT_EFFECT
    assert not {"guard", "lr", "batch", "seed", "dtype"} & WITHOUT_EFFECT
