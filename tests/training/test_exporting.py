"""A model that was exported says the same as the run it came from, and is whole or not there."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from vitruvius.data.tokenization.of_run import tokenizer_of_run
from vitruvius.errors import CorruptCheckpointError, RunError, UsageError
from vitruvius.inference import Generation, Sampler
from vitruvius.nn.weights import load_model, read_tensors, weights_of, write_tensors
from vitruvius.runs import RunReader, verify_manifest, write_manifest
from vitruvius.spec import from_plain, read
from vitruvius.training import exporting
from vitruvius.training.exporting import export

FILES = {"README.md", "manifest.json", "model.json", "model.safetensors", "spec.yaml", "tokenizer.json"}


@pytest.fixture
def trained(mixture, run_of):
    """A run of six steps, validated at steps 2, 4 and 6, with all three checkpoints."""
    return run_of(mixture, "runs", steps=6, keep=9, eval_every=2).run


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))


def text_of(folder, dtype=None):
    model, tokenizer = load_model(folder, dtype=dtype), tokenizer_of_run(folder)
    ids = tokenizer.encode("The mason carries")
    told = list(
        Generation(model, ids, max_tokens=12, sampler=Sampler(temperature=0.0), vocabulary=tokenizer.vocab_size)
    )
    return ids, told, logits(model, ids)


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_the_export_gives_the_same_text_and_the_same_logits_as_the_run(dtype, trained, tmp_path):
    done = export(trained, tmp_path / "model", dtype=dtype)
    assert {path.name for path in done.folder.iterdir()} == FILES
    assert (done.step, done.dtype) == (6, "bf16")
    ids, told, numbers = text_of(trained)
    assert text_of(tmp_path / "model")[:2] == (ids, told)
    assert torch.equal(text_of(tmp_path / "model")[2], numbers)


def test_fp32_are_the_optimizers_masters_and_not_widened_weights(trained, tmp_path):
    export(trained, tmp_path / "model", dtype="fp32")
    last = RunReader(trained).checkpoints()[-1].path
    masters, narrow = read_tensors(last / "optimizer.safetensors"), read_tensors(last / "model.safetensors")
    wide = read_tensors(tmp_path / "model" / "model.safetensors")
    assert wide.keys() == narrow.keys()
    for name, tensor in wide.items():
        assert tensor.dtype == torch.float32
        if narrow[name].dtype == torch.bfloat16:
            assert torch.equal(tensor, masters[f"master.{name}"])
            assert torch.equal(tensor.bfloat16(), narrow[name])
    assert any(not torch.equal(wide[name], narrow[name].float()) for name in wide), "masters know more than the weights"


def test_a_run_in_fp32_is_exported_as_it_is_and_rounded_on_request(dense, run_of, tmp_path):
    run = run_of(dense, dtype="fp32").run
    export(run, tmp_path / "wide")
    export(run, tmp_path / "narrow", dtype="bf16")
    wide, narrow = (read_tensors(tmp_path / name / "model.safetensors") for name in ("wide", "narrow"))
    assert all(tensor.dtype == torch.float32 for tensor in wide.values())
    assert all(torch.equal(narrow[name], tensor.bfloat16()) for name, tensor in wide.items())


def test_an_older_checkpoint_and_the_best_one_can_be_asked_for(trained, tmp_path):
    export(trained, tmp_path / "older", checkpoint=2)
    assert torch.equal(text_of(tmp_path / "older")[2], text_of(trained / "checkpoints" / "step-2")[2]), (
        "the checkpoint's own folder reads too"
    )
    metrics = trained / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows[3]["val_loss"] = 0.5
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = export(trained, tmp_path / "best", weights="best")
    assert (best.step, best.val_loss) == (4, 0.5)


def test_moving_averages_are_exported_in_fp32_with_the_rest_of_the_weights(trained, tmp_path):
    last = RunReader(trained).checkpoints()[-1].path
    weights = read_tensors(last / "model.safetensors")
    averages = {name: tensor.float() * 0.5 for name, tensor in weights.items() if tensor.dtype == torch.bfloat16}
    write_tensors(last / "ema.safetensors", averages)
    (last / "manifest.json").unlink()
    write_manifest(last)
    export(trained, tmp_path / "average", weights="ema", dtype="fp32")
    found = read_tensors(tmp_path / "average" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in averages.items())
    assert found.keys() == weights.keys()
    assert load_model(tmp_path / "average").training is False


def test_the_card_says_what_the_weights_are_and_may_be_edited(trained, tmp_path):
    done = export(trained, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    record = RunReader(trained).record()
    for said in (
        record["data"]["fingerprint"],
        "6 updates",
        torch.__version__,
        *(f["sha256"] for f in done.files.values()),
    ):
        assert said in card
    assert str(trained) not in card + (tmp_path / "model" / "model.json").read_text(), "no path of this machine"
    assert record["data"]["path"] not in card + (tmp_path / "model" / "model.json").read_text()
    (tmp_path / "model" / "README.md").write_text("mine")
    (tmp_path / "model" / ".gitattributes").write_text("*.safetensors filter=lfs")
    load_model(tmp_path / "model")


def test_the_spec_beside_the_weights_is_the_architecture(trained, tmp_path):
    export(trained, tmp_path / "model")
    told = json.loads((tmp_path / "model" / "model.json").read_text())
    assert read(tmp_path / "model" / "spec.yaml") == from_plain(told["spec"]["data"])


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_flipped_bit_in_an_export_is_named(name, place, exported):
    file = exported / name
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.write_bytes(content)
    try:
        with pytest.raises(RunError, match=r"differs|damaged|not JSON|schema") as caught:
            load_model(exported)
        assert name in caught.value.where
    finally:
        content[int(len(content) * place)] ^= 1
        file.write_bytes(content)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, data, dense):
    from vitruvius.training import TrainConfig, train

    folder = tmp_path_factory.mktemp("exported")
    config = TrainConfig(steps=1, batch=2, threads=1, eval_every=0, final_eval_batches=1)
    train(dense, data=data, out=folder / "run", config=config)
    return export(folder / "run", folder / "model").folder


def test_a_damaged_checkpoint_is_passed_over_with_a_word_and_refused_when_named(trained, tmp_path):
    file = trained / "checkpoints" / "step-6" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    notes = []
    assert export(trained, tmp_path / "model", note=notes.append).step == 4
    assert "step-6 is damaged" in notes[0]
    with pytest.raises(CorruptCheckpointError, match="differs"):
        export(trained, tmp_path / "other", checkpoint=6)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"checkpoint": 5}, "no checkpoint of step 5"),
        ({"checkpoint": 4, "weights": "best"}, "found, not named"),
        ({"weights": "ema"}, "no moving averages"),
    ],
)
def test_what_the_run_does_not_have_is_refused_and_nothing_is_made(asked, message, trained, tmp_path):
    with pytest.raises(UsageError, match=message):
        export(trained, tmp_path / "model", **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_nothing_is_overwritten(trained, tmp_path):
    export(trained, tmp_path / "model")
    with pytest.raises(RunError, match="not empty"):
        export(trained, tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="no folder"):
        export(trained, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="no folder"):
        export(trained, tmp_path / "link")
    with pytest.raises(RunError, match="not a run folder"):
        export(tmp_path / "model", tmp_path / "again")


def test_an_export_that_is_killed_anywhere_leaves_nothing_that_looks_whole(trained, tmp_path, monkeypatch):
    names = ("write_weights", "write_atomically", "write_json", "write_manifest", "sync_directory")
    for name in names:
        monkeypatch.setattr(exporting, name, lambda *_a, **_k: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if pid == 0:
            export(trained, tmp_path / "model")
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        monkeypatch.undo()
        assert not (tmp_path / "model").exists()
        assert all(path.name.startswith(".") for path in tmp_path.iterdir() if path.name != "runs")
    export(trained, tmp_path / "model")
    verify_manifest(tmp_path / "model", beside="anything")


def test_a_full_disk_is_found_before_a_byte_is_written(trained, tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("vitruvius.runs.checkpoints.shutil.disk_usage", lambda folder: full)
    with pytest.raises(RunError, match=r"no room for the model: it needs [\d,]+ bytes, 1,000 are free"):
        export(trained, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_weights_of_a_loaded_export_are_those_of_the_file(exported):
    model = load_model(exported)
    file = read_tensors(exported / "model.safetensors")
    assert all(torch.equal(tensor, file[name]) for name, tensor in weights_of(model).items())


def test_a_run_with_averages_exports_them(dense, run_of, tmp_path):
    run = run_of(dense, ema=0.9).run
    export(run, tmp_path / "average", weights="ema", dtype="fp32")
    last = RunReader(run).checkpoints()[-1].path
    averages, found = (
        read_tensors(path) for path in (last / "ema.safetensors", tmp_path / "average" / "model.safetensors")
    )
    assert averages
    assert all(torch.equal(found[name], tensor) for name, tensor in averages.items())
    load_model(tmp_path / "average")
