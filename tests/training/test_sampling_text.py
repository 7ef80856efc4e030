"""Text that a model writes while it learns."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from vitruvius.errors import SpecError, UsageError
from vitruvius.runs import RunReader
from vitruvius.runs.samples import SAMPLES_FILE, newest, samples_of
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import config_hash, ensure
from vitruvius.training.sampling_text import described, prompt_ids
from vitruvius.training.settings import Samples
from vitruvius.training.stopping import StopRequest, signalled, stop_on_signals
from vitruvius.training.watching.reading import undisturbed

SMALL = ["width=32", "context=32", "vocab_size=320"]
WRITES = Samples(every=2, prompts=("The mason", ""), max_tokens=5)


@pytest.fixture(scope="module")
def filler():
    """An encoder with an mlm head."""
    few = ["blocks.layer.mixer.heads=2", "blocks.layer.ffn.hidden=48", "layers=layer"]
    return preset("context-aware-bert", overrides=[*SMALL, *few])


def rows(run):
    return samples_of(run)


def manifest(run):
    return (RunReader(run).checkpoints()[-1].path / "manifest.json").read_text()


def metrics(run):
    kept = [dict(row) for row in RunReader(run).metrics()]
    for row in kept:
        row.pop("tokens_per_second")
    return kept


class Heard:
    """A listener that keeps what it is told, and may ask the run to stop."""

    def __init__(self, stop=None, at=None):
        self.notes, self.stop, self.at = [], stop, at

    def started(self, *, step, steps):
        pass

    def row(self, row):
        if row["step"] == self.at:
            self.stop.ask(signal.SIGTERM)

    def saved(self, checkpoint):
        pass

    def note(self, text):
        self.notes.append(text)

    def ended(self):
        pass


def test_the_model_writes_at_its_steps_and_after_the_last_one(dense, run_of):
    heard = Heard()
    run = run_of(dense, steps=5, samples=WRITES, listener=heard).run
    found = rows(run)
    assert [(row["step"], row["prompt"]) for row in found] == [
        (step, prompt) for step in (2, 4, 5) for prompt in WRITES.prompts
    ]
    for row in found:
        assert 0 <= row["tokens"] <= 5 and row["logprob_mean"] < 0 and row["finish"] in {"stop", "length"}
    assert sum("it writes" in note for note in heard.notes) == 3
    assert [row["step"] for row in newest(found)] == [5, 5]


@pytest.mark.parametrize("kind", ["dense", "mixture", "learned"])
def test_a_run_that_writes_has_the_bits_of_one_that_does_not(kind, run_of, request):
    architecture = request.getfixturevalue(kind)
    quiet = run_of(architecture, "quiet").run
    # Prompt and text together are as long as a sample: masks of that length are kept for both.
    long = Samples(every=1, prompts=("The mason carries the beam", ""), max_tokens=31)
    loud = run_of(architecture, "loud", samples=long).run
    assert manifest(loud) == manifest(quiet)
    assert metrics(loud) == metrics(quiet)
    assert not (quiet / SAMPLES_FILE).exists()


def test_a_table_that_grows_for_a_long_text_goes_on_learning(run_of):
    few = ["blocks.layer.mixer.heads=2", "blocks.layer.ffn.hidden=48", "layers=layer", "embedding.position.size=32"]
    growing = preset("tiny-gpt2", overrides=[*SMALL, *few, "embedding.position.start=4"])
    quiet = run_of(growing, "quiet", context=8).run
    loud = run_of(growing, "loud", context=8, samples=Samples(every=1, max_tokens=20, temperature=50.0)).run
    assert any(row["tokens"] > 8 for row in rows(loud)), "no text was longer than a sample"
    assert manifest(loud) == manifest(quiet)
    assert metrics(loud) == metrics(quiet)


def test_an_encoder_decoder_answers_its_source_and_trains_on(run_of):
    few = ["encoder.layers=encode", "layers=decode"]
    for block in ("encode", "decode"):
        few += [f"blocks.{block}.mixer.heads=2", f"blocks.{block}.ffn.hidden=32"]
    few.append("blocks.decode.cross.heads=2")
    architecture = preset("seq2seq-small", overrides=[*SMALL, *few])
    quiet = run_of(architecture, "quiet", steps=3).run
    # The encoder reads halves of samples in training: as many tokens as the prompt has.
    prompt = " ".join(["mason"] * 16)
    loud = run_of(architecture, "loud", steps=3, samples=Samples(every=1, prompts=(prompt,), max_tokens=4)).run
    assert manifest(loud) == manifest(quiet)
    assert len(rows(loud)) == 3


def test_a_model_of_hidden_tokens_fills_them_in(filler, run_of):
    quiet = run_of(filler, "quiet", steps=2).run
    prompts = ("The [MASK] carries the [MASK]", "[MASK]" * 31)
    loud = run_of(filler, "loud", steps=2, samples=Samples(every=1, prompts=prompts)).run
    first, second = rows(loud)[:2]
    assert first["tokens"] == 2 and first["text"].startswith("The ") and "[MASK]" not in first["text"]
    assert second["tokens"] == 31
    assert manifest(loud) == manifest(quiet)


def test_a_model_of_hidden_tokens_is_asked_for_some(filler):
    with pytest.raises(SpecError) as caught:
        ensure(TrainConfig(samples=Samples(every=1, prompts=("Once",))), filler)
    (finding,) = caught.value.findings
    assert finding.path == "train.samples.prompts.0" and "[MASK]" in finding.fix


def test_a_resumed_run_writes_what_the_straight_one_does(dense, run_of):
    straight = run_of(dense, "straight", samples=WRITES).run
    stop = StopRequest()
    cut = run_of(dense, "cut", samples=WRITES, stop=stop, listener=Heard(stop, at=3)).run
    assert [row["step"] for row in rows(cut)] == [2, 2]
    resume(cut)
    assert (cut / SAMPLES_FILE).read_bytes() == (straight / SAMPLES_FILE).read_bytes()


def test_texts_past_the_checkpoint_are_removed(dense, run_of):
    run = run_of(dense, samples=WRITES).run
    whole = (run / SAMPLES_FILE).read_bytes()
    for step in (4, 6):
        for file in (run / "checkpoints" / f"step-{step}").iterdir():
            if step == 6:
                file.unlink()
    (run / "checkpoints" / "step-6").rmdir()
    with (run / SAMPLES_FILE).open("ab") as log:
        log.write(b'{"step": 6, "prompt": "torn')
    resume(run)
    assert (run / SAMPLES_FILE).read_bytes() == whole


def test_a_stop_in_the_middle_of_a_text_is_heeded_and_the_text_written_later(dense, run_of, monkeypatch):
    straight = run_of(dense, "straight", samples=WRITES).run
    stop = StopRequest()
    from vitruvius.inference import Sampler

    drawn, sample = [], Sampler.sample

    def counting(self, logits, generator):
        drawn.append(1)
        if len(drawn) == 3:
            stop.ask(signal.SIGINT)
        return sample(self, logits, generator)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", counting)
        cut = run_of(dense, "cut", samples=WRITES, stop=stop)
    assert (cut.status, cut.exit_code, cut.step) == ("stopped", 130, 2)
    assert len(drawn) == 3 and rows(cut.run) == []
    resume(cut.run)
    assert (cut.run / SAMPLES_FILE).read_bytes() == (straight / SAMPLES_FILE).read_bytes()


def test_a_signal_is_heard_before_the_processes_agree():
    assert not signalled()
    with stop_on_signals():
        assert not signalled()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signalled()
    assert not signalled()


def test_writing_that_fails_ends_no_run(dense, run_of, monkeypatch):
    def broken(*args, **more):
        raise RuntimeError("probability tensor contains \x1b[2J inf")

    monkeypatch.setattr("vitruvius.training.sampling_text.Generation", broken)
    heard = Heard()
    result = run_of(dense, samples=WRITES, listener=heard)
    assert result.status == "finished" and rows(result.run) == []
    (event,) = [event for event in RunReader(result.run).events() if event["kind"] == "samples-failed"]
    assert event["step"] == 2
    (note,) = [note for note in heard.notes if "no more samples" in note]
    assert "\x1b" not in note


def test_a_prompt_without_room_is_refused_before_a_folder_is_made(dense, run_of, tmp_path):
    with pytest.raises(UsageError, match="the context holds 32") as caught:
        run_of(dense, samples=Samples(every=1, prompts=("", "mason 12345 " * 40)))
    assert caught.value.where == "train.samples.prompts.1"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("plain", "path"),
    [
        ({"every": 0}, "train.samples.every"),
        ({"prompts": []}, "train.samples.prompts"),
        ({"prompts": "Once"}, "train.samples.prompts"),
        ({"prompts": [3]}, "train.samples.prompts.0"),
        ({"max_tokens": 2**40}, "train.samples.max_tokens"),
        ({"temperature": -1}, "train.samples.temperature"),
        ({"temprature": 1}, "train.samples.temprature"),
    ],
)
def test_a_wrong_setting_is_named(plain, path):
    from vitruvius.training.checking import from_plain

    with pytest.raises(SpecError) as caught:
        from_plain({"samples": plain})
    assert {finding.path for finding in caught.value.findings} == {path}


def test_samples_are_no_part_of_what_a_checkpoint_belongs_to():
    loud, quiet = TrainConfig(samples=WRITES), TrainConfig()
    assert config_hash(loud, {}, "data") == config_hash(quiet, {}, "data")


def test_modes_and_random_state_are_as_before(dense):
    from vitruvius.nn import build

    model = build(dense, dtype="fp32", seed=0)
    model.train()
    next(iter(model.modules())).training = True
    frozen = list(model.modules())[-1]
    frozen.training = False
    before = torch.get_rng_state()

    def disturb():
        with undisturbed(model):
            assert not model.training
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disturb()
    assert model.training and not frozen.training
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_terminal_would_obey_is_shown_escaped():
    row = {"step": 1200, "prompt": "a\x1b]0;x\x07", "text": "b\r\n\u202e" + "c" * 500}
    line = described(row)
    assert line.isprintable() and len(line) < 300 and "1,200" in line


def test_the_file_holds_a_json_object_a_line(dense, run_of):
    run = run_of(dense, steps=2, samples=WRITES).run
    lines = (run / SAMPLES_FILE).read_text().splitlines()
    assert all(json.loads(line)["step"] == 2 for line in lines) and len(lines) == 2


def test_a_source_of_pairs_ends_in_the_separator_that_the_decoder_starts_from(data):
    from vitruvius.data import TokenShards

    tokenizer = TokenShards.open(data, "train", verify="sizes").tokenizer()
    plain, pairs = TrainConfig(), TrainConfig(objective="seq2seq")
    ids = tokenizer.encode("The mason")
    assert prompt_ids("The mason", tokenizer, plain) == ids
    assert prompt_ids("The mason", tokenizer, pairs) == [*ids, tokenizer.eos_id]
    assert prompt_ids("", tokenizer, plain) == prompt_ids("", tokenizer, pairs) == [tokenizer.eos_id]
