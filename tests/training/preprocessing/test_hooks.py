"""Hooks of one's own: found, tried before a run starts, refused in words, and the same bits in every process."""

from __future__ import annotations

import hashlib
import json

import pytest
from halves import final_manifest  # pyright: ignore[reportMissingImports]

from vitruvius.data import TokenShards
from vitruvius.errors import RunError, SpecError, UsageError, VitruviusError
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import config_hash, from_plain
from vitruvius.training.config import batches_of
from vitruvius.training.loading import BatchLoader
from vitruvius.training.preprocessing import find_hooks, pinned
from vitruvius.training.preprocessing.checking import check_hooks
from vitruvius.training.preprocessing.use import HookUse
from vitruvius.training.request import read_request
from vitruvius.training.rules import findings
from vitruvius.training.settings import Loader
from vitruvius.training.stopping import StopRequest

HEAD = "import os, random, time\nimport numpy as np\n\n\ndef change(sample, draw):\n    "
IDENTITY = "return {'inputs': sample.inputs, 'targets': sample.targets}"
DIGITS = "return {'inputs': np.where(draw.random(len(sample.inputs)) < 0.2, 319, sample.inputs)}"


@pytest.fixture
def hook(tmp_path):
    def write(body, name="hooks.py"):
        (tmp_path / name).write_text(HEAD + body + "\n", encoding="utf-8")
        return (HookUse(hook=f"{tmp_path / name}:change"),)

    return write


def loader_of(data, hooks, **changed):
    config = TrainConfig(steps=9, batch=4, context=32, objective="causal-lm", preprocess=hooks, **changed)
    return BatchLoader(batches_of(TokenShards.open(data), config), config, vocab_size=320)


def checked(data, hooks):
    loader = loader_of(data, hooks)
    return check_hooks(loader.reader, loader.recipe)


def losses(run):
    return [row["loss"] for row in RunReader(run).metrics()]


# ----------------------------------------------------------------------------------------------------------------------
# Runs


def test_hooks_that_change_nothing_leave_the_loss_curve_as_it_is(dense, run_of, hook):
    plain, hooked = run_of(dense, "plain"), run_of(dense, "hooked", preprocess=hook(IDENTITY))
    assert losses(plain.run) == losses(hooked.run)
    assert plain.val_loss == hooked.val_loss


@pytest.mark.slow
def test_a_hook_decides_bits_and_a_resumed_run_has_them(dense, run_of, hook):
    hooks = hook(DIGITS)
    straight = run_of(dense, "straight", preprocess=hooks)
    assert losses(straight.run) != losses(run_of(dense, "plain").run)
    stop = StopRequest()

    class Stopping:
        def __getattr__(self, name):
            return lambda *a, **k: name == "row" and a[0]["step"] == 3 and stop.ask(15)

    half = run_of(dense, "half", preprocess=hooks, loader=Loader(workers=2), listener=Stopping(), stop=stop)
    assert half.step == 3
    assert final_manifest(resume(half.run, changes={"loader": Loader()}).run) == final_manifest(straight.run)


def test_the_record_names_source_and_hash_and_a_changed_source_is_refused(dense, run_of, hook, tmp_path):
    hooks = hook(DIGITS)
    file = tmp_path / "hooks.py"
    source = file.read_bytes()
    result = run_of(dense, steps=2, preprocess=hooks)
    sha = hashlib.sha256(source).hexdigest()
    (use,) = RunReader(result.run).record()["config"]["train"]["preprocess"]
    assert use == {"hook": f"{file}:change", "options": {}, "sha256": sha}
    kept = result.run / "hooks" / f"change-{sha[:16]}.py"
    assert kept.read_bytes() == source
    file.write_bytes(source + b"# another\n")
    with pytest.raises(RunError, match="source of the hook has changed") as caught:
        resume(result.run)
    assert "keeps a copy under hooks/" in caught.value.fix
    file.unlink()
    with pytest.raises(UsageError, match=r"hooks.py cannot be read: there is no such file"):
        resume(result.run)
    file.write_bytes(kept.read_bytes())
    assert resume(result.run).status == "finished"


def test_the_same_hook_elsewhere_is_the_same_run_and_other_options_are_not(hook, tmp_path):
    (tmp_path / "there").mkdir()
    here = hook(DIGITS)
    there = hook(DIGITS, name="there/hooks.py")
    other = hook(DIGITS + "  # but", name="there/other.py")

    def of(uses):
        return config_hash(TrainConfig(preprocess=pinned(uses)), {}, "0")

    assert of(here) == of(there) != of(other)
    assert of((HookUse(hook="fim"),)) != of((HookUse(hook="fim", options={"rate": 0.9}),)) != of(())


def test_a_hook_in_a_run_file_is_relative_to_that_file(tmp_path):
    (tmp_path / "sub").mkdir()
    run = tmp_path / "sub" / "run.yaml"
    run.write_text("spec: tiny-llama\ndata: d\nout: o\ntrain: {preprocess: [{hook: '../h.py:f'}, {hook: fim}]}\n")
    uses = read_request(str(run)).config.preprocess
    assert [use.hook for use in uses] == [f"{tmp_path}/h.py:f", "fim"]
    asked = read_request(str(run), settings=["train.preprocess=[{hook: 'h.py:f'}]"]).config.preprocess
    assert asked[0].hook == "h.py:f", "an argument is relative to where the command is given"


def test_validation_reads_text_as_it_is(dense, run_of, hook):
    spoilt = run_of(dense, "spoilt", steps=1, lr=1e-9, preprocess=hook("return {'inputs': sample.inputs * 0}"))
    plain = run_of(dense, "plain", steps=1, lr=1e-9)
    assert spoilt.val_loss == pytest.approx(plain.val_loss, rel=1e-6)
    assert losses(spoilt.run) != losses(plain.run)


def test_targets_that_nobody_asks_for_are_a_step_without_change(dense, run_of, hook):
    result = run_of(dense, steps=2, preprocess=hook("return {'targets': np.full(len(sample.inputs), -100)}"))
    assert result.status == "finished"


# ----------------------------------------------------------------------------------------------------------------------
# The look before the run


def test_the_look_says_how_long_each_hook_takes(data, hook):
    lines = checked(data, (*hook(DIGITS), HookUse(hook="fim")))
    assert [line.partition(":")[0] for line in lines] == ["hook change", "hook fim"]
    assert all("ms per sample (4 tried)" in line for line in lines)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("sample.inputs[0] = 1; return {}", "writes into its inputs, which are read-only"),
        ("sample.inputs.flags.writeable = True; return {}", "raised ValueError: cannot set WRITEABLE flag to True"),
        ("return {'inputs': sample.inputs[:-1]}", r"shape \(31,\), and the sample has \(32,\)"),
        ("return {'inputs': sample.inputs[None]}", r"shape \(1, 32\)"),
        ("return {'inputs': sample.inputs * 1.0}", "inputs are float64"),
        ("return {'inputs': sample.inputs > 3}", "inputs are bool"),
        ("return {'inputs': sample.inputs.tolist()}", "inputs are list"),
        ("return {'inputs': sample.inputs + 320}", r"inputs\[0\] is \d+, and tokens are below the vocabulary of 320"),
        ("return {'inputs': sample.inputs * 0 - 100}", r"inputs\[0\] is -100"),
        ("return {'targets': sample.inputs * 0 - 1}", r"targets\[0\] is -1"),
        ("return {'inputs': np.full(32, 2**64 - 1, dtype=np.uint64)}", r"inputs\[0\] is 18446744073709551615"),
        ("return {'documents': sample.documents}", "it gave 'documents'"),
        ("return {1: sample.inputs}", "it gave 1"),
        ("return sample.inputs", "it gave ndarray where a mapping is due"),
        ("pass", "it gave NoneType where a mapping is due"),
        ("raise RuntimeError('x' * 10**6)", "it raised RuntimeError: xxx"),
        ("return change(sample, draw)", "it raised RecursionError"),
        (
            "return {'inputs': sample.inputs, 'targets': np.random.permutation(sample.targets)}",
            "one thing the first time",
        ),
        ("return {'inputs': np.full(32, time.perf_counter_ns() % 300)}", "one thing the first time"),
        (
            "change.n = getattr(change, 'n', 0) + 1; return {'inputs': np.full(32, change.n)}",
            "one thing the first time",
        ),
        ("return {'inputs': os.getpid() >> np.arange(32) & 1}", "another process computes other inputs"),
        ("return {'inputs': hash('a') >> np.arange(32) & 1}", "another process computes other inputs"),
    ],
)
def test_a_hook_that_is_none_is_refused_in_words(body, what, data, hook, monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(RunError, match=what) as caught:
        checked(data, hook(body))
    assert "change" in caught.value.where
    assert caught.value.fix
    assert len(str(caught.value)) < 2000


def test_a_refused_hook_leaves_no_run_folder(dense, run_of, hook, tmp_path):
    with pytest.raises(VitruviusError, match="ndarray where a mapping"):
        run_of(dense, "run", preprocess=hook("return sample.inputs"))
    assert not (tmp_path / "run").exists()


def test_draws_depend_on_seed_epoch_sample_and_name_and_on_nothing_else(data, hook):
    hooks = hook("return {'inputs': draw.integers(0, 320, len(sample.inputs))}")
    one, two = loader_of(data, hooks), loader_of(data, hooks, seed=1)
    found = {}
    for number in range(150):
        batch = one.at(number)
        for row, sample, epoch in zip(batch.inputs, batch.sample_ids, batch.epochs, strict=True):
            found[int(sample), int(epoch)] = row.tobytes()
    assert len(set(found.values())) == len(found) == 600
    assert any(epoch == 1 for _, epoch in found)
    assert one.at(0).inputs.tobytes() != two.at(0).inputs.tobytes()
    twice = loader_of(data, hooks * 2)
    assert twice.at(0).inputs.tobytes() != one.at(0).inputs.tobytes(), "the second of a name draws other numbers"


# ----------------------------------------------------------------------------------------------------------------------
# Finding


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (HookUse(hook="fin"), r"there is no hook 'fin'[\s\S]*did you mean 'fim'"),
        (HookUse(hook="absent.py:f"), "absent.py cannot be read: there is no such file"),
        (HookUse(hook="/:f"), "cannot be read"),
        (HookUse(hook="fim", options={"rat": 1}), r"unexpected keyword argument 'rat'[\s\S]*options are rate, spm"),
        (HookUse(hook="fim", sha256="0" * 64), "source of the hook has changed"),
    ],
)
def test_a_hook_that_is_not_there_is_named(use, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitruviusError, match=what) as caught:
        find_hooks([use])
    assert "train.preprocess.0" in caught.value.where


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def other(sample, draw): return {}", "has no function 'change'"),
        ("change = 3", "has no function 'change'"),
        ("def change(: pass", "cannot be run: SyntaxError"),
        ("raise SystemExit(3)", "cannot be run: SystemExit"),
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero, line 1"),
        ("import nonsense_that_is_not_there", "cannot be run: ModuleNotFoundError"),
        ("\x00", "cannot be run"),
        ("def change(sample): return {}", "cannot be called so"),
    ],
)
def test_a_file_that_is_no_hook_is_refused_with_file_and_line(text, what, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=what):
        find_hooks([HookUse(hook=f"{path}:change")])


def test_a_huge_file_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "binary.py").write_bytes(bytes(range(256)) * 4)
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(1 << 30)
    for name in ("folder.py", "binary.py", "huge.py"):
        with pytest.raises(UsageError):
            find_hooks([HookUse(hook=f"{tmp_path / name}:change")])


def test_a_hook_may_import_its_neighbours(tmp_path, data):
    (tmp_path / "neighbour_of_a_hook.py").write_text("IDS = 7\n")
    (tmp_path / "one.py").write_text(
        "from neighbour_of_a_hook import IDS\ndef f(sample, draw): return {'inputs': sample.inputs * 0 + IDS}\n"
    )
    assert checked(data, (HookUse(hook=f"{tmp_path / 'one.py'}:f"),))


def test_an_installed_hook_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "hooks_of_a_package.py").write_text("def f(sample, draw, *, n=1): return {}\n")
    meta = tmp_path / "hooks_of_a_package-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: hooks-of-a-package\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[vitruvius.hooks]\nmine = hooks_of_a_package:f\ngone = hooks_of_a_package:g\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = find_hooks([HookUse(hook="mine", options={"n": 2})])
    assert found.sha256 == hashlib.sha256((tmp_path / "hooks_of_a_package.py").read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="cannot be loaded: AttributeError"):
        find_hooks([HookUse(hook="gone")])


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ([{}], "train.preprocess.0.hook"),
        ([{"hook": ""}], "train.preprocess.0.hook"),
        ([{"hook": "fim", "rate": 1}], "train.preprocess.0.rate"),
        ([{"hook": "fim", "options": []}], "train.preprocess.0.options"),
        (["fim"], "train.preprocess.0"),
        ("fim", "train.preprocess"),
        ([{"hook": "a.txt:f"}], "train.preprocess.0.hook"),
        ([{"hook": "a.py:f()"}], "train.preprocess.0.hook"),
        ([{"hook": "fim"}] * 33, "train.preprocess"),
    ],
)
def test_entries_that_cannot_be_meant_are_refused_at_their_place(entries, path):
    with pytest.raises(SpecError) as caught:
        from_plain({"preprocess": entries})
    assert [finding.path for finding in caught.value.findings] == [path]


def test_what_fim_cannot_be_used_with_is_said(dense):
    def found(**settings):
        return [finding.path for finding in findings(TrainConfig(preprocess=(HookUse(hook="fim"),), **settings), dense)]

    assert found() == []
    assert found(packing="by-length") == ["train.preprocess.0.hook"]
    assert "train.preprocess.0.hook" in found(objective="masked-lm")


def test_options_reach_the_record_as_they_are(dense, run_of):
    uses = (HookUse(hook="token-drop", options={"rate": 0.25, "by": "sample"}),)
    record = RunReader(run_of(dense, steps=1, preprocess=uses).run).record()
    assert record["config"]["train"]["preprocess"] == [
        {"hook": "token-drop", "options": {"rate": 0.25, "by": "sample"}, "sha256": None}
    ]
    json.dumps(record)
