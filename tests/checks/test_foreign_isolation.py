"""A foreign model may crash, hang, eat memory, print or leave: the command goes on and says what happened."""

from __future__ import annotations

import json
import signal

import pytest

from vitruvius.checks.foreign import check_foreign, check_module
from vitruvius.checks.foreign.loading import load
from vitruvius.errors import UsageError

MODEL = '''
import ctypes, os, sys, time
import torch
from torch import nn

class Mean(nn.Module):
    """The mean of the embeddings so far."""
    def __init__(self, vocab=31, width=16):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab)
    def forward(self, ids):
        if ids.shape[0] == 13:  # the probe of leaks is the only one with 13 rows
            self.here(ids)
        count = torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        return self.head(self.embed(ids).cumsum(1) / count)
    def here(self, ids):
        pass

def good():
    return Mean(), {"vocab_size": 31, "name": "the mean"}

def model(method):
    return type("Broken", (Mean,), {"here": method})

crash = model(lambda self, ids: ctypes.string_at(0))
leave = model(lambda self, ids: os._exit(3))
hang = model(lambda self, ids: time.sleep(600))
eat = model(lambda self, ids: [torch.ones(2**24) for _ in range(1000)])
close = model(lambda self, ids: os.closerange(3, 256))
stop = model(lambda self, ids: sys.exit(4))
fail = model(lambda self, ids: 1 / 0)

class Loud(Mean):
    def forward(self, ids):
        print("\\x1b[2J {garbage" * 100)
        os.write(1, b"\\xff\\n")
        sys.stderr.write("noise\\n")
        for number in range(3, 20):
            try:
                os.write(number, b'{"event": "done"}\\n{"event": "outcome"}\\nnothing\\n')
            except OSError:
                pass
        return super().forward(ids)

class InFp32(Mean):
    def forward(self, ids):
        if self.embed.weight.dtype == torch.float64:
            os.abort()
        return super().forward(ids)

class Never(Mean):
    def forward(self, ids):
        time.sleep(600)

def cannot():
    raise ValueError("no such luck")

def aborts():
    os.abort()

def leaves():
    sys.exit(7)

def takes(width):
    return Mean(width=width)

def number():
    return 3

def wrong_word():
    return Mean(), {"vocab": 31}

value = 5
instance = Mean()
'''

ONLY = ("future-leak", "batch-invariance")


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return lambda name: f"module:{tmp_path / 'model.py'}:{name}"


def outcomes(report):
    return {outcome.name: outcome for outcome in report.checks}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash", "ended by SIGSEGV (model.py, line"),
        pytest.param("leave", "left with exit status 3", marks=pytest.mark.slow),
        pytest.param("eat", "ran out of memory: it may take 1.000 GB (--memory)", marks=pytest.mark.slow),
        pytest.param("close", "the process ", marks=pytest.mark.slow),
    ],
)
def test_a_probe_in_which_the_model_breaks_off_has_failed_and_the_next_one_runs(spec, name, words):
    report = check_foreign(spec(name), only=ONLY, memory=10**9)
    found = outcomes(report)
    assert list(found) == ["loads", *ONLY]
    assert not found["future-leak"].passed and words in found["future-leak"].detail
    assert "broke off" in found["future-leak"].means
    assert found["batch-invariance"].passed and found["batch-invariance"].applies


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stop", "raised SystemExit: 4 (model.py, line"),
        ("fail", "raised ZeroDivisionError: division by zero (model.py, line"),
    ],
)
def test_what_a_model_raises_is_a_failure_of_that_probe_in_this_process_too(spec, name, words):
    found = outcomes(check_module(load(spec(name)).module, only=ONLY))
    assert not found["future-leak"].passed and words in found["future-leak"].detail
    assert found["batch-invariance"].passed


@pytest.mark.slow
def test_a_model_that_hangs_is_ended_and_the_line_is_named(spec):
    report = check_foreign(spec("hang"), only=ONLY, timeout=10)
    found = outcomes(report)
    assert "no answer within 10 s" in found["future-leak"].detail
    assert "(model.py, line" in found["future-leak"].detail
    assert found["batch-invariance"].passed


@pytest.mark.slow
def test_a_model_that_never_answers_costs_one_timeout_and_not_twenty(spec):
    report = check_foreign(spec("Never"), timeout=10)
    assert [outcome.name for outcome in report.failures] == ["output-shape"]
    assert all(
        "not run: output-shape failed" in o.detail for o in report.checks if o.name not in {"loads", "output-shape"}
    )


@pytest.mark.slow
def test_a_model_that_fp64_kills_is_probed_in_fp32(spec):
    report = check_foreign(spec("InFp32"), only=ONLY)
    assert report.passed, str(report)
    assert "(in fp32)" in report["future-leak"].detail
    assert (report["future-leak"].bound or 0) > 1e-9
    assert "fp64 ended the process" in report.subject


@pytest.mark.slow
def test_what_a_model_prints_is_no_result(spec):
    heard = []
    report = check_foreign(spec("Loud"), only=ONLY, heard=lambda outcome: heard.append(outcome.name))
    assert report.passed, str(report)
    assert heard == ["loads", *ONLY]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("cannot", "the factory raised ValueError: no such luck", marks=pytest.mark.slow),
        ("aborts", "ended by SIGABRT (model.py, line"),
        pytest.param("leaves", "the factory raised SystemExit: 7", marks=pytest.mark.slow),
    ],
)
def test_a_factory_that_breaks_is_a_finding(spec, name, words):
    report = check_foreign(spec(name), only=ONLY)
    assert [outcome.name for outcome in report.failures] == ["loads"]
    assert words in report["loads"].detail
    assert not report["future-leak"].applies


# ----------------------------------------------------------------------------------------------------------------------
# What a factory may be


def test_a_factory_may_say_more_about_its_model(spec):
    found = load(spec("good"))
    assert (found.facts.name, found.facts.vocab_size) == ("the mean", 31)
    assert found.facts.redraw is not None


@pytest.mark.parametrize("name", ["Mean", "instance"])
def test_a_class_and_a_module_do_too(spec, name):
    assert load(spec(name)).facts.vocab_size == 31


def test_a_dotted_name_is_found_from_the_working_folder(spec, tmp_path, monkeypatch):
    spec("good")
    (tmp_path / "a_package_of_theirs").mkdir()
    (tmp_path / "model.py").rename(tmp_path / "a_package_of_theirs" / "model.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("module:a_package_of_theirs.model:good").facts.name == "the mean"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("takes", "missing a required argument: 'width'"),
        ("number", "the factory returned int"),
        ("wrong_word", "did you mean vocab_size?"),
        ("value", "a int, not a factory"),
        ("goood", "did you mean good"),
    ],
)
def test_what_is_no_factory_is_refused_with_the_way_out(spec, text, words):
    with pytest.raises(UsageError) as caught:
        load(spec(text))
    assert words in str(caught.value) and caught.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("module:", "a factory is missing"),
        ("module:model", "a factory is missing"),
        ("module:./nowhere.py:make", "no file ./nowhere.py"),
        ("module:no_such_package.here:make", "no Python module"),
        ("hf:", "config.json"),
        ("tiny-llama", "names no foreign model"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_with_the_way_out(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load(text)
    assert words in str(caught.value) and caught.value.fix


@pytest.mark.parametrize(
    ("source", "words"),
    [("def make(:", "SyntaxError"), ("import no_such_thing", "needs no_such_thing"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_file_that_cannot_be_imported_is_refused_with_the_reason(tmp_path, source, words):
    (tmp_path / "it.py").write_text(source)
    with pytest.raises(UsageError, match=words):
        load(f"module:{tmp_path / 'it.py'}:make")


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
def test_the_command_prints_data_alone_and_leaves_with_1_when_the_model_crashes(vitruvius, spec):
    done = vitruvius("check", spec("crash"), "--only", "future-leak", "--only", "batch-invariance", "--json")
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "vitruvius.check/1" and data["passed"] is False
    assert {c["name"]: c["passed"] for c in data["checks"]} == {
        "loads": True,
        "future-leak": False,
        "batch-invariance": True,
    }
    assert signal.SIGSEGV.name in data["checks"][1]["detail"]
    assert "Traceback" not in done.stderr and "next: vitruvius check" in done.stderr


@pytest.mark.slow
def test_the_command_passes_a_right_model_and_prints_nothing_of_what_it_says(vitruvius, spec):
    done = vitruvius("check", spec("Loud"), "--only", "future-leak")
    assert done.returncode == 0, done.stderr
    assert "✓ future-leak" in done.stdout and "garbage" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["hf:./nowhere"],
        ["module:./nowhere.py:make"],
        ["hf:.", "--set", "width=3"],
        ["hf:.", "--mup"],
        ["hf:.", "--lengths", "3"],
        ["module:./model.py:good", "--timeout", "0"],
        ["module:./model.py:good", "--timeout", "nan"],
        ["module:./model.py:good", "--memory", "much"],
        ["module:./model.py:good", "--only", "leaks"],
        ["tiny-llama", "--timeout", "3"],
        ["tiny-llama", "--random-weights"],
    ],
    ids=" ".join,
)
def test_bad_input_leaves_with_2_a_reason_and_a_way_out(capsys, tmp_path, monkeypatch, arguments):
    from vitruvius.cli.main import run

    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    code = run(["check", *arguments])
    printed = capsys.readouterr()
    assert code == 2, printed.out + printed.err
    assert "error: " in printed.err and "fix: " in printed.err
    assert not printed.out and "Traceback" not in printed.err
