"""`vitruvius runs`: what there is, what it came to, how it differs, what may go."""

from __future__ import annotations

import json
import os
import shlex
import shutil

import pytest

from vitruvius.cli.main import run
from vitruvius.runs.lock import FolderLock

SPEC = """\
name: small
vocab_size: 300
width: 16
context: 32
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 24}
layers: a
"""
QUICK = ["--batch", "2", "--set", "train.threads=1", "--checkpoint-every", "2", "--set", "train.keep=3"]


@pytest.fixture(scope="module")
def made(with_data):
    """Two runs of six steps that differ in their learning rate."""
    folder = with_data("runs", SPEC)
    for name, rate in (("one", "1e-3"), ("two", "2e-3")):
        start = [
            "train",
            str(folder / "small.yaml"),
            "--data",
            str(folder / "data"),
            "--out",
            str(folder / "runs" / name),
        ]
        assert run([*start, "--steps", "6", "--lr", rate, *QUICK]) == 0
    return folder


@pytest.fixture
def here(made, copied):
    """A folder of the test's own with a copy of all that, to be in."""
    return copied(made)


def test_list_has_a_row_for_each_run_with_what_its_metrics_say(here, said):
    code, out, _ = said("runs", "list", "--json")
    assert code == 0
    rows = json.loads(out)["runs"]
    assert [row["path"] for row in rows] == ["runs/one", "runs/two"]
    for row in rows:
        last = [json.loads(line) for line in (here / row["path"] / "metrics.jsonl").read_text().splitlines()][-1]
        assert (row["step"], row["loss"], row["tokens"]) == (6, last["loss"], last["tokens"])
        assert row["val_loss"] == last["val_loss"]
        assert row["checkpoints"] == [2, 4, 6]
        files = [path for path in (here / row["path"]).rglob("*") if path.is_file()]
        assert row["bytes"] == sum(path.stat().st_size for path in files)
    assert "runs/one  finished  small" in said("runs", "list")[1]


def test_a_damaged_run_is_named_and_the_others_are_listed(here, said):
    (here / "runs" / "one" / "run.json").write_text("{")
    code, out, err = said("runs", "list", "runs", "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)["runs"]] == ["runs/two"]
    assert "passed over runs/one" in err


def test_a_run_that_says_running_and_holds_no_lock_died(here, said):
    record = json.loads((here / "runs" / "one" / "run.json").read_text())
    (here / "runs" / "one" / "run.json").write_text(json.dumps(record | {"status": "running"}))
    (row,) = json.loads(said("runs", "list", "runs/one", "--json")[1])["runs"]
    assert row["status"] == "died"
    lock = FolderLock(here / "runs" / "one")
    (row,) = json.loads(said("runs", "list", "runs/one", "--json")[1])["runs"]
    lock.release()
    assert row["status"] == "running"


def test_show_tells_what_is_not_the_default_and_verifies(here, said):
    code, out, _ = said("runs", "show", "runs/two", "--verify", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["settings_changed"]["lr"] == 0.002
    assert "optimizer" not in told["settings_changed"]
    assert told["checkpoint_damage"] == {"2": None, "4": None, "6": None}


def test_the_next_command_of_a_finished_run_is_whole(here, said):
    _, _, err = said("runs", "show", "runs/one")
    following = shlex.split(err.partition("next: vitruvius ")[2])
    assert following[:2] == ["generate", "runs/one"]
    assert said(*following, "--max-tokens", "2")[0] == 0


def test_show_verify_finds_one_flipped_bit_and_leaves_with_1(here, said):
    file = here / "runs" / "two" / "checkpoints" / "step-4" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, out, _ = said("runs", "show", "runs/two", "--verify")
    assert code == 1
    assert "step-4/model.safetensors" in out
    assert "step 6: whole" in out


def test_compare_says_what_differs_and_nothing_else(here, said):
    differing = json.loads(said("runs", "compare", "runs/one", "runs/two", "--json")[1])["differences"]
    assert differing == {"train.lr": {"runs/one": 0.001, "runs/two": 0.002}}
    assert "0.002" in said("runs", "compare", "runs/one", "runs/two")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "nowhere"], "no such folder"),
        (["show", "data"], "not a run folder"),
        (["compare", "runs/one"], "two different runs"),
        (["compare", "runs/one", "runs/one/"], "two different runs"),
        (["prune", "runs/one", "--keep", "0"], "below 1"),
        (["prune", "data"], "not a run folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, said, argv, message):
    code, _, err = said("runs", *argv)
    assert code == 2
    assert message in err


def test_prune_deletes_old_checkpoints_and_leftovers_and_a_dry_run_nothing(here, said):
    folder = here / "runs" / "one" / "checkpoints"
    (folder / ".step-5.partial").mkdir()
    (folder / ".step-5.partial" / "model.safetensors").write_bytes(b"half")
    before = sorted(path.name for path in folder.iterdir())
    planned = json.loads(said("runs", "prune", "runs/one", "--dry-run", "--json")[1])
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not planned["deleted"]
    done = json.loads(said("runs", "prune", "runs/one", "--json")[1])
    assert done["folders"] == planned["folders"]
    assert [path.name for path in folder.iterdir()] == ["step-6"]
    assert said("generate", "runs/one", "--prompt", "a", "--max-tokens", 2)[0] == 0


def test_prune_keeps_the_newest_whole_checkpoint_when_newer_ones_are_damaged(here, said):
    folder = here / "runs" / "one" / "checkpoints"
    (folder / "step-6" / "model.safetensors").write_bytes(b"cut")
    assert said("runs", "prune", "runs/one")[0] == 0
    assert {path.name for path in folder.iterdir()} == {"step-4", "step-6"}


def test_prune_leaves_a_run_alone_that_is_being_written_to(here, said):
    lock = FolderLock(here / "runs" / "one")
    code, _, err = said("runs", "prune", "runs/one")
    lock.release()
    assert code == 2
    assert "another run is writing" in err
    assert len(list((here / "runs" / "one" / "checkpoints").iterdir())) == 3


# ----------------------------------------------------------------------------------------------------------------------
# Records and logs that others have written


def changed(record, **fields):
    return {**record, **fields}


HUGE = 10**399
ODD = {
    "older": lambda folder, record: changed(record, schema="vitruvius.run/0"),
    "settings are a list": lambda folder, record: changed(record, config={"train": [1]}, started="\x1b[2J"),
    "no settings": lambda folder, record: changed(record, config={}, data=None),
    "no spec": lambda folder, record: changed(record, spec={"text": None, "data": None}),
    "words for numbers": lambda folder, record: changed(
        record, config={"train": {"steps": "many"}}, environment={"packages": None}, command=["\x1b[2J"]
    ),
    "rows of anything": lambda folder, record: (
        (folder / "metrics.jsonl").write_text(
            '{"step": "x", "loss": [], "tokens": null}\n{"loss": NaN, "val_loss": 1e999}\n'
        ),
        (folder / "events.jsonl").write_text('{"kind": [1]}\n{"kind": "\\u001b[31m"}\n{}\n'),
        record,
    )[-1],
    "no rows": lambda folder, record: ((folder / "metrics.jsonl").unlink(), record)[-1],
    "a pipe for a log": lambda folder, record: (
        (folder / "metrics.jsonl").unlink(),
        os.mkfifo(folder / "metrics.jsonl"),
        record,
    )[-1],
    "a device for a log": lambda folder, record: (
        (folder / "events.jsonl").unlink(),
        (folder / "events.jsonl").symlink_to("/dev/zero"),
        record,
    )[-1],
    "a pipe for a manifest": lambda folder, record: (
        (folder / "checkpoints" / "step-6" / "manifest.json").unlink(),
        os.mkfifo(folder / "checkpoints" / "step-6" / "manifest.json"),
        record,
    )[-1],
    "numbers of 400 digits": lambda folder, record: (
        (folder / "metrics.jsonl").write_text(
            f'{{"step": {HUGE}, "loss": {HUGE}, "tokens": {HUGE}, "val_loss": {HUGE}, "tokens_per_second": {HUGE}}}\n'
        ),
        changed(record, config={"train": {"steps": HUGE, "keep": HUGE, "recovery": {"keep_best": HUGE}}}),
    )[-1],
    "half a checkpoint": lambda folder, record: ((folder / "checkpoints" / "step-9").mkdir(), record)[-1],
    "a file for a checkpoint": lambda folder, record: ((folder / "checkpoints" / "step-9").write_text("x"), record)[-1],
}


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_run_folder_holds_every_verb_answers_without_a_crash(odd, here, said):
    folder = here / "runs" / "one"
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(ODD[odd](folder, record)))
    verbs = [["list", "runs"], ["show"], ["show", "--verify"], ["compare", "runs/two"], ["prune", "--dry-run"]]
    verbs += [["prune", "--dry-run", "--keep-best", "1"], ["report"], ["watch", "--once"]]
    for verb in verbs:
        code, out, err = said("runs", *verb, *([] if verb[0] == "list" else ["runs/one"]))
        assert code in ({0, 1, 2} if verb[0] in {"show", "watch"} else {0, 2}), err
        assert "\x1b" not in out + err
        assert "bug" not in err
    assert said("runs", "list", "runs")[0] == 0


def test_names_with_escapes_and_line_breaks_are_shown_harmless(here, said):
    (here / "runs" / "one").rename(here / "runs" / "a\x1b[31m\nb")
    code, out, _ = said("runs", "list", "runs")
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3
    assert said("runs", "show", "runs/a\x1b[31m\nb")[0] == 0


def test_show_says_which_checkpoints_there_are_why_they_stay_and_how_large(here, said):
    told = json.loads(said("runs", "show", "runs/one", "--json")[1])
    assert [(each["step"], each["why"]) for each in told["kept"]] == [(step, ["newest"]) for step in (2, 4, 6)]
    for each in told["kept"]:
        files = (here / "runs" / "one" / "checkpoints" / f"step-{each['step']}").iterdir()
        assert each["bytes"] == sum(path.stat().st_size for path in files)
    assert "why it stays" in said("runs", "show", "runs/one")[1]


def test_prune_follows_the_rules_that_are_given_and_says_why_the_others_stay(here, said):
    rows = [json.loads(line) for line in (here / "runs" / "one" / "metrics.jsonl").read_text().splitlines()]
    rows[1]["val_loss"] = 0.25
    (here / "runs" / "one" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = json.loads(said("runs", "prune", "runs/one", "--keep-best", "1", "--json")[1])
    assert [(each["step"], each["why"]) for each in done["kept"]] == [(2, ["best (val_loss 0.25)"]), (6, ["newest"])]
    assert [folder["path"] for folder in done["folders"]] == ["runs/one/checkpoints/step-4"]
    assert said("runs", "prune", "runs/one", "--keep-every", "0")[0] == 2


def test_export_writes_a_folder_that_other_verbs_take_for_the_run(here, said):
    code, out, _ = said("runs", "export", "runs/one", "--out", "model", "--json")
    told = json.loads(out)
    assert (code, told["step"], told["weights"], told["dtype"]) == (0, 6, "last", "bf16")
    prompt = ["--prompt", "arch", "--max-tokens", "6", "--temperature", "0"]
    assert said("generate", "model", *prompt)[1] == said("generate", "runs/one", *prompt)[1]
    assert said("embed", "model", "stone")[1] == said("embed", "runs/one", "stone")[1]
    code, _, err = said("runs", "export", "runs/one", "--out", "model")
    assert code == 2
    assert "not empty" in err
    code, _, err = said("train", "--resume", "model")
    assert code == 2
    assert "not a run folder" in err


def test_settings_are_shown_as_a_run_file_would_have_them(here, said):
    path = here / "runs" / "one" / "run.json"
    record = json.loads(path.read_text())
    record["config"]["train"]["clip"] = None
    record["config"]["train"]["samples"] |= {"every": 2, "prompts": ["", "no"]}
    path.write_text(json.dumps(record))
    shown = said("runs", "show", "runs/one")[1]
    compared = said("runs", "compare", "runs/one", "runs/two")[1]
    for told in (shown, compared):
        assert "null" in told and '["", no]' in told
        assert "None" not in told and "{'" not in told


def test_a_folder_that_begins_with_a_dash_is_named_so_that_the_next_command_takes_it(here, said):
    shutil.copytree("runs/one", "-one")
    resumed, shown = ["train", "--resume", "-one"], ["runs", "show", "--", "-one"]
    for argv in (resumed, shown, ["runs", "export", "./-one", "--out", "-m"]):
        code, _, err = said(*argv)
        assert code == 0, err
        (after,) = [line.removeprefix("next: ") for line in err.splitlines() if line.startswith("next: ")]
        words = shlex.split(after)[1:]
        assert words[1].startswith("./-")
        assert said(*words, "--max-tokens", "1")[0] == 0
