from __future__ import annotations

import json

import pytest

from vitruvius.errors import SpecError, UsageError
from vitruvius.training.request import read_request


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"

    def write(text):
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


FULL = "spec: tiny-llama\ndata: books\nout: runs/one\ntrain: {steps: 50, lr: 2e-3}\n"


def test_a_run_file_names_spec_data_and_settings_relative_to_itself(run_file, tmp_path):
    request = read_request(run_file(FULL))
    assert request.reading.architecture.name == "tiny-llama"
    assert (request.data, request.out) == (tmp_path / "books", tmp_path / "runs/one")
    assert (request.config.steps, request.config.lr, request.config.context) == (50, 2e-3, 256)


def test_a_spec_beside_the_run_file_is_found(run_file, tmp_path):
    text = (
        "name: mine\nvocab_size: 300\nwidth: 16\ncontext: 8\nblocks: {a: {ffn: {kind: swiglu, hidden: 8}}}\nlayers: a\n"
    )
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert read_request(run_file("spec: mine.yaml\ndata: d\nout: o\n")).reading.architecture.name == "mine"


def test_settings_win_over_flags_and_flags_over_the_file(run_file):
    request = read_request(
        run_file(FULL), flags={"steps": 60, "lr": 1e-3, "seed": None}, settings=["train.lr=5e-4", "width=64"]
    )
    assert (request.config.steps, request.config.lr, request.config.seed) == (60, 5e-4, 0)
    assert request.reading.architecture.width == 64


def test_flags_win_over_the_files_folders(run_file):
    request = read_request(run_file(FULL), data="elsewhere", out="there")
    assert (str(request.data), str(request.out)) == ("elsewhere", "there")


def test_a_spec_alone_takes_its_settings_from_flags():
    request = read_request("tiny-llama", data="d", out="o", flags={"steps": 3}, settings=["train.warmup=1"])
    assert (request.config.steps, request.config.warmup) == (3, 1)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (
            "spec: tiny-llama\ndata: d\nout: o\ntrain:\n  steps: 5\n  lrr: 1\n",
            "run.yaml:6:3  train.lrr",
            "did you mean 'lr'?",
        ),
        ("spec: tiny-llama\ndata: d\nout: o\ntrain:\n  steps: 0\n", "run.yaml:5:10  train.steps", "out of range"),
        ("spec: tiny-llama\ndatta: d\n", "run.yaml:2:1  datta", "did you mean 'data'?"),
        ("data: d\ntrain: {}\n", "run.yaml:1:1  spec", "spec is missing"),
        ("spec: tiny-llama\ntrain: 5\n", "run.yaml:2:8  train", "no mapping"),
        ("spec: [a]\ntrain: {}\n", "run.yaml:1:7  spec", "a name is due"),
        ("spec: tiny-llama\ndata: d\nout: o\ntrain: {context: 512}\n", "run.yaml:4:18  train.context", "context=256"),
    ],
)
def test_a_mistake_is_reported_at_its_line(run_file, text, place, what):
    with pytest.raises(SpecError) as caught:
        read_request(run_file(text))
    message = str(caught.value)
    assert place in message
    assert what in message


def test_a_wrong_flag_is_named_as_the_flag_it_is():
    with pytest.raises(SpecError, match=r"--steps  train\.steps"):
        read_request("tiny-llama", data="d", out="o", flags={"steps": 0})


def test_a_wrong_setting_is_named_as_the_argument_it_is():
    with pytest.raises(SpecError, match=r"--set train\.lr=-1:1:10  train\.lr"):
        read_request("tiny-llama", data="d", out="o", settings=["train.lr=-1"])


def test_a_misspelt_setting_on_the_command_line_is_answered():
    with pytest.raises(SpecError, match="did you mean 'steps'"):
        read_request("tiny-llama", data="d", out="o", settings=["train.stesp=4"])


@pytest.mark.parametrize("missing", ["data", "out"])
def test_a_missing_folder_is_named(missing):
    folders = {"data": "d", "out": "o"} | {missing: None}
    with pytest.raises(UsageError, match=f"--{missing} is missing"):
        read_request("tiny-llama", **folders)


def test_a_run_file_and_a_plan_need_no_torch(python):
    code = "import sys; import vitruvius.training.request, vitruvius.training.plan; sys.exit('torch' in sys.modules)"
    assert python(code).returncode == 0


@pytest.mark.parametrize("beside", [{}, {"guard": {"window": 16}}], ids=["absent", "in the file"])
def test_set_reaches_into_a_section_whether_or_not_the_file_has_it(tmp_path, beside):
    (tmp_path / "run.yaml").write_text(json.dumps({"spec": "tiny-llama", "train": {"steps": 100, **beside}}))
    request = read_request(
        str(tmp_path / "run.yaml"), data="d", out="o", settings=["train.guard.spike=skip", "train.watch.every=20"]
    )
    assert (request.config.guard.spike, request.config.watch.every) == ("skip", 20)
    assert request.config.guard.window == (16 if beside else 64)
