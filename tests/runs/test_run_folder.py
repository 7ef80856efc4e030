"""Run folders: one writer, nothing torn, and enough left after any death to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from vitruvius.errors import RunError, RunLockedError
from vitruvius.runs import RunFolder, RunReader
from vitruvius.runs.lines import read_lines

if TYPE_CHECKING:
    from pathlib import Path


def row(step: int, **extra: object) -> dict[str, object]:
    return {
        "step": step,
        "loss": 2.0,
        "grad_norm": 1.0,
        "lr": 1e-3,
        "tokens": step * 8,
        "tokens_per_second": 9.0,
        **extra,
    }


def run_out_of_disk(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run", command=["vitruvius", "train"], config={"steps": 3}) as made:
        yield made


def test_run_json_holds_what_was_run_on_what_with_what(tmp_path):
    with RunFolder.create(
        tmp_path / "run",
        command=["vitruvius", "train", "a.yaml"],
        config={"steps": 3, "seed": 7},
        spec_text="name: a\n",
        spec={"name": "a"},
        data={"directory": "data", "fingerprint": "f" * 64},
    ) as run:
        run.finish("finished", loss=1.5)
    record = RunReader(tmp_path / "run").record()
    assert record["schema"] == "vitruvius.run/1"
    assert record["command"] == ["vitruvius", "train", "a.yaml"]
    assert record["config"] == {"steps": 3, "seed": 7}
    assert record["spec"] == {"text": "name: a\n", "data": {"name": "a"}}
    assert record["data"]["fingerprint"] == "f" * 64
    assert record["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["status"] == "finished"
    assert record["result"] == {"loss": 1.5}
    assert record["started"] <= record["finished"]


def test_a_new_run_is_running_and_not_finished(folder):
    record = folder.reader.record()
    assert record["status"] == "running"
    assert record["finished"] is None


def test_metrics_have_the_columns_of_the_contract_and_extras(folder):
    folder.metric(step=1, loss=2.5, grad_norm=0.5, lr=1e-3, tokens=64, tokens_per_second=10.0, sample_digest="ab")
    (found,) = folder.reader.metrics()
    assert list(found) == ["step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second", "sample_digest"]
    assert found["loss"] == 2.5


def test_a_loss_that_is_not_a_number_is_still_json(folder):
    folder.metric(
        step=1, loss=float("nan"), grad_norm=float("inf"), lr=1e-3, tokens=64, tokens_per_second=10.0, note="kept"
    )
    line = (folder.path / "metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found["loss"] is None and found["grad_norm"] is None
    assert found["non_finite"] == {"loss": "nan", "grad_norm": "inf"}
    assert found["note"] == "kept"


def test_events_carry_time_and_kind(folder):
    folder.event("spike", step=4, samples=[1, 2])
    (found,) = folder.reader.events()
    assert found["kind"] == "spike" and found["step"] == 4 and found["samples"] == [1, 2]
    assert found["time"].endswith("Z")


def test_a_reader_passes_over_a_torn_last_line(folder):
    folder.metric(**row(1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [found["step"] for found in folder.reader.metrics()] == [1]


def test_a_broken_line_in_the_middle_is_named_with_its_number(folder):
    folder.metric(**row(1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo\n')
    folder.metric(**row(3))
    with pytest.raises(RunError, match=r"metrics\.jsonl:2"):
        folder.reader.metrics()


@pytest.mark.parametrize("cut", range(1, 12), ids=str)
def test_opening_again_drops_the_torn_line_so_that_rows_never_run_together(tmp_path, cut):
    with RunFolder.create(tmp_path / "run") as run:
        run.metric(**row(1))
        run.metric(**row(2))
    log = tmp_path / "run" / "metrics.jsonl"
    os.truncate(log, log.stat().st_size - cut)
    with RunFolder.open(tmp_path / "run") as run:
        run.metric(**row(3))
        assert [found["step"] for found in run.reader.metrics()] == [1, 3]


def test_truncating_drops_the_rows_past_a_step_and_appending_goes_on(folder):
    for step in range(1, 8):
        folder.metric(**row(step))
    assert folder.truncate_metrics(after_step=4) == 3
    folder.metric(**row(5, loss_again=True))
    assert [found["step"] for found in folder.reader.metrics()] == [1, 2, 3, 4, 5]


def test_a_long_log_is_mended_without_reading_all_of_it(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b'{"a": "' + b"x" * 3_000_000 + b'"}\n' + b'{"torn": "' + b"y" * 2_500_000)
    from vitruvius.runs.lines import LineLog

    opened = LineLog(log)
    opened.append({"b": 1})
    opened.close()
    assert [list(found) for found in read_lines(log)] == [["a"], ["b"]]


def test_a_second_writer_is_refused_and_told_who_holds_the_folder(folder):
    with pytest.raises(RunLockedError, match=f"process {os.getpid()} on"):
        RunFolder.open(folder.path)
    code = f"from vitruvius.runs import RunFolder; RunFolder.open({str(folder.path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RunLockedError" in other.stderr


def test_a_refused_writer_leaves_the_holders_name_in_the_lock(folder):
    for _ in range(2):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} on"):
            RunFolder.open(folder.path)


def test_a_reader_needs_no_lock(folder):
    folder.metric(**row(1))
    assert len(RunReader(folder.path).metrics()) == 1


def test_the_lock_of_a_killed_process_is_not_in_the_way(tmp_path):
    code = textwrap.dedent(f"""
        import time
        from vitruvius.runs import RunFolder
        run = RunFolder.create({str(tmp_path / "run")!r})
        print("held", flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match=str(process.pid)):
            RunFolder.open(tmp_path / "run")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / ".lock").exists()
    RunFolder.open(tmp_path / "run").close()


def test_a_closed_run_can_be_opened_again(tmp_path):
    RunFolder.create(tmp_path / "run").close()
    with RunFolder.open(tmp_path / "run") as run:
        run.resume()
        assert run.reader.events()[0]["kind"] == "resumed"


def test_a_run_is_not_created_over_another(folder):
    folder.close()
    before = (folder.path / "run.json").read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder.create(folder.path)
    assert (folder.path / "run.json").read_bytes() == before
    RunFolder.open(folder.path).close()


def test_a_run_is_not_created_among_other_files(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"thesis\.tex"):
        RunFolder.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_not_created_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="not a folder"):
        RunFolder.create(tmp_path / "file")


def test_a_folder_without_run_json_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"no run\.json"):
        RunFolder.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "vitruvius.run/9"}', "\udcff"], ids=repr)
def test_a_damaged_run_json_is_an_error_that_names_the_file(folder, content):
    (folder.path / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"run\.json"):
        folder.reader.record()


def test_a_field_the_record_lacks_is_refused(folder):
    with pytest.raises(RunError, match="statsu"):
        folder.update(statsu="finished")


def test_a_checkpoint_appears_whole_with_its_manifest(folder):
    with folder.checkpoint(3) as place:
        (place / "model.safetensors").write_bytes(b"weights")
        assert folder.reader.checkpoints() == []
    (found,) = folder.reader.checkpoints()
    assert found.step == 3 and found.path.name == "step-3"
    found.verify()


def test_a_checkpoint_that_failed_leaves_nothing_and_the_earlier_one_as_it_was(folder):
    with folder.checkpoint(3) as place:
        (place / "model").write_bytes(b"good")

    with pytest.raises(OSError, match="No space"), folder.checkpoint(3) as place:
        run_out_of_disk(place / "model")
    (found,) = folder.reader.checkpoints()
    assert (found.path / "model").read_bytes() == b"good"
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["step-3"]


def test_the_same_step_can_be_written_again(folder):
    for content in (b"first", b"second"):
        with folder.checkpoint(3) as place:
            (place / "model").write_bytes(content)
    (found,) = folder.reader.checkpoints()
    assert (found.path / "model").read_bytes() == b"second"
    found.verify()


def test_checkpoints_are_listed_by_step_and_half_ones_are_not(folder):
    for step in (10, 9, 100, 0):
        with folder.checkpoint(step) as place:
            (place / "model").touch()
    for stray in (".step-7.partial", "step-", "step-07", "notes"):
        (folder.path / "checkpoints" / stray).mkdir()
    assert [found.step for found in folder.reader.checkpoints()] == [0, 9, 10, 100]


def test_opening_removes_what_a_killed_writer_left_of_a_checkpoint(tmp_path):
    RunFolder.create(tmp_path / "run").close()
    partial: Path = tmp_path / "run" / "checkpoints" / ".step-7.partial"
    partial.mkdir()
    (partial / "model").touch()
    RunFolder.open(tmp_path / "run").close()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{}", "step is missing"),
        ('{"step": "2", "loss": 1.0, "grad_norm": 1.0}', "a whole number"),
        ('{"step": 2, "loss": null, "grad_norm": 1.0}', "loss is null"),
        ('{"step": 2, "loss": 1.0}', "grad_norm is missing"),
        (f'{{"step": 2, "loss": {10**399}, "grad_norm": 1.0}}', "a number is due"),
    ],
)
def test_a_row_that_no_run_can_go_on_from_is_named_with_its_line(folder, line, what):
    folder.metric(**row(1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match=what) as found:
        folder.reader.updates(until=9)
    assert str(found.value.where).endswith("metrics.jsonl:2")


def test_updates_end_where_they_are_asked_to_and_those_left_out_need_no_numbers(folder):
    for step in (1, 2, 3):
        folder.metric(**row(step))
    folder.metric(**row(4, loss=float("nan"), applied=0))
    assert [each["step"] for each in folder.reader.updates(until=2)] == [1, 2]
    assert len(folder.reader.updates(until=9)) == 4


def test_a_name_that_is_not_utf_8_is_recorded_as_it_is(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    with RunFolder.create(tmp_path / "run", command=["vitruvius", name]) as folder:
        folder.event("begun", made_from=name)
        assert folder.reader.record()["command"] == ["vitruvius", name]
        assert [event["made_from"] for event in folder.reader.events()] == [name]
        folder.metric(**row(1, odd=name))
        folder.truncate_metrics(after_step=1)
        assert [each["odd"] for each in folder.reader.metrics()] == [name]


def test_a_run_is_not_created_under_a_name_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(RunError, match="not UTF-8"):
        RunFolder.create(path)
    assert not path.exists()


def test_a_result_that_is_not_a_number_is_recorded_all_the_same(folder):
    folder.finish("finished", val_loss=float("nan"), step=3)
    record = folder.reader.record()
    assert record["status"] == "finished"
    assert record["result"] == {"val_loss": None, "step": 3, "non_finite": {"val_loss": "nan"}}
