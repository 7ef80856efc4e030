"""Hugging Face's Trainer drives our models: the same loss as ours, checkpoints both ways, every kind of objective."""

from __future__ import annotations

import importlib.util
import json
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitruvius.data import TokenShards
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.errors import DataError, MissingExtraError, RunError, UsageError
from vitruvius.nn import build
from vitruvius.nn.weights import load_weights, weights_of
from vitruvius.spec import preset, read_text
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.config import batches_of
from vitruvius.training.huggingface import Collator, ForTrainer, Keeping, Rows, load_trained, tokenizer_of_data
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Updater

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
CPU = torch.device("cpu")
BODY = """
name: small
vocab_size: 304
width: 32
context: 32
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: SEES, position: rope}, ffn: {kind: swiglu, hidden: 48}}
"""
SPECS = {
    "causal-lm": BODY.replace("SEES", "causal") + "layers: a*2\n",
    "prefix-lm": BODY.replace("SEES", "causal").replace("position: rope", "position: rope, prefix: open")
    + "layers: a*2\n",
    "masked-lm": BODY.replace("SEES", "everything") + "layers: a*2\nhead: mlm\n",
    "continuation": BODY.replace("SEES", "everything")
    + "  d:\n    mixer: {kind: attention, heads: 2, position: rope}\n    cross: {kind: attention, heads: 2}\n"
    + "    ffn: {kind: swiglu, hidden: 48}\nlayers: d*2\nencoder: {layers: a*2}\n",
}
SPECS["seq2seq"] = SPECS["continuation"]
MIXTURE = BODY.replace("SEES", "causal") + (
    "  m:\n    mixer: {kind: attention, heads: 2, position: rope}\n"
    "    ffn: {kind: moe, experts: 4, top_k: 2, router: sigmoid, expert: {kind: swiglu, hidden: 24}}\n"
    "layers: a m\n"
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(80):
            text = " ".join(draw.choice(["open", "read", "the", "file"]) for _ in range(draw.randrange(2, 9)))
            file.write(
                json.dumps({"source": f"{text} {number}", "target": f"f{number} " * draw.randrange(1, 4)}) + "\n"
            )
    prepare_pairs([folder / "in.jsonl"], folder / "data", PairOptions(vocab=300, held_out=0.2))
    return folder / "data"


def parts(objective, data, pairs, **settings):
    spec = read_text(SPECS[objective]).architecture
    return spec, ensure(TrainConfig(objective=objective, **settings), spec), pairs if objective == "seq2seq" else data


def arguments(out, **settings):
    defaults = {
        "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-3, "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no", "seed": 0,
    }  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(out), **(defaults | settings))


def trainer_of(spec, config, data, out, **settings):
    given = {key: settings.pop(key) for key in ("order", "most", "held_out", "model") if key in settings}
    return transformers.Trainer(
        model=ForTrainer(given.get("model", spec)),
        args=arguments(out, **settings),
        train_dataset=Rows(data, spec, config, order=given.get("order", "given"), most=given.get("most")),
        eval_dataset=Rows(data, spec, config, split="validation", most=given.get("held_out", 8)),
        data_collator=Collator(spec, config),
        callbacks=[Keeping()],
    )


def losses_of(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("objective", SPECS)
def test_the_loss_of_a_batch_is_ours(objective, data, pairs):
    spec, config, data = parts(objective, data, pairs, batch=6)
    ours = build(spec)
    rows = Rows(data, spec, config, order="training")
    given = Collator(spec, config)([rows[number] for number in range(6)])
    (piece,) = make_objective(config).pieces(batches_of(TokenShards.open(data), config).at(0), 1, CPU)
    for model in (ForTrainer(ours).train(), ForTrainer(ours).eval()):
        assert model(**given)["loss"].item() == pytest.approx(
            make_objective(config).train(ours, piece).loss.item(), abs=1e-6
        )
    items = int((piece.targets != -100).sum()) * 2
    half = ForTrainer(ours)(**given, num_items_in_batch=items)["loss"].item()
    assert half == pytest.approx(make_objective(config).train(ours, piece).loss.item() / 2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["causal-lm", "masked-lm", "seq2seq"])
def test_the_first_updates_are_those_of_our_loop(objective, dtype, data, pairs, tmp_path, one_thread):
    steps = 8
    spec, config, data = parts(
        objective, data, pairs, batch=4, steps=steps, lr=1e-3, weight_decay=0.0, schedule="constant", warmup=0,
        dtype=dtype, betas=(0.9, 0.999),
    )  # fmt: skip
    model = build(spec, dtype=dtype)
    same = build(spec, dtype=dtype).float()
    updater = Updater(
        config=config,
        model=model,
        optimizer=make_optimizer(model, config),
        objective=make_objective(config),
        device=CPU,
    )
    batches, expected = batches_of(TokenShards.open(data), config), []
    for step in range(steps):
        gathered = updater.gradients(batches.at(step), StopRequest())
        updater.apply(gathered, lr=1e-3, clip=1.0)
        expected.append((gathered.loss, gathered.grad_norm))
    trainer = trainer_of(
        spec, config, data, tmp_path, order="training", max_steps=steps, train_sampling_strategy="sequential",
        lr_scheduler_type="constant", weight_decay=0.0, bf16=dtype == "bf16", model=same,
    )  # fmt: skip
    trainer.train()
    found = [(row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row]
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    # What two ways to compute Adam's step differ by can fall on either side of a rounding to bf16.
    near = {"rtol": 1e-3, "atol": 2e-5} if dtype == "fp32" else {"rtol": 2**-7, "atol": 2e-5}
    for name, weight in weights_of(trainer.model.model).items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.to(model.dtype), weights_of(model)[name], **near, msg=name)


@pytest.mark.slow
def test_a_batch_in_pieces_weighs_them_by_their_targets(data, pairs, tmp_path, one_thread):
    losses = []
    for size, pieces in ((4, 1), (2, 2)):
        spec, config, folder = parts("masked-lm", data, pairs, batch=4, steps=3)
        trainer = trainer_of(
            spec, config, folder, tmp_path, order="training", max_steps=3, train_sampling_strategy="sequential",
            per_device_train_batch_size=size, gradient_accumulation_steps=pieces,
        )  # fmt: skip
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal-lm", "masked-lm", "seq2seq"])
def test_it_saves_resumes_to_the_same_bits_and_is_read_back_as_ours(objective, data, pairs, tmp_path, one_thread):
    spec, config, data = parts(objective, data, pairs)
    given = {"num_train_epochs": 2, "most": 12, "eval_strategy": "epoch", "save_strategy": "epoch"}
    straight = trainer_of(spec, config, data, tmp_path / "one", **given)
    straight.train()
    resumed = trainer_of(spec, config, data, tmp_path / "one", **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-3"))
    mine = load_trained(tmp_path / "one" / "checkpoint-6")
    for name, weight in weights_of(straight.model.model).items():
        assert torch.equal(weight, weights_of(resumed.model.model)[name]), name
        assert torch.equal(weight, weights_of(mine)[name]), name
    losses = [row["eval_loss"] for row in straight.state.log_history if "eval_loss" in row]
    assert len(losses) == 2
    assert losses[1] == resumed.evaluate()["eval_loss"]
    # Tied weights are one tensor in the file.
    fresh = build(spec, seed=9)
    load_weights(fresh, tmp_path / "one" / "checkpoint-6")


def test_each_epoch_hides_other_tokens(data, pairs, tmp_path):
    spec, config, data = parts("masked-lm", data, pairs)
    seen = []

    class Seeing(Collator.__mro__[-1]):  # plain object; the Trainer asks for a callable
        def __call__(self, rows):
            seen.extend((row.sample, row.epoch) for row in rows)
            return Collator(spec, config)(rows)

    trainer = trainer_of(spec, config, data, tmp_path, num_train_epochs=2, most=8)
    trainer.data_collator = Seeing()
    trainer.train()
    assert sorted(epoch for _, epoch in seen) == [0] * 8 + [1] * 8
    assert len({sample for sample, _ in seen}) == 8


def test_routers_settle_after_each_update(data, tmp_path):
    spec = read_text(MIXTURE).architecture
    config = ensure(TrainConfig(), spec)
    trainer = trainer_of(spec, config, data, tmp_path, max_steps=3)
    before = {name: tensor.clone() for name, tensor in trainer.model.model.named_buffers() if "bias" in name}
    trainer.train()
    after = dict(trainer.model.model.named_buffers())
    assert before and any(not torch.equal(after[name], tensor) for name, tensor in before.items())


def test_their_own_collator_and_tokenizer_work_on_plain_texts(data, tmp_path):
    datasets = pytest.importorskip("datasets")
    spec = read_text(SPECS["masked-lm"]).architecture
    tokenizer = tokenizer_of_data(data, spec)
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (301, 300, 32)
    texts = datasets.Dataset.from_dict({"text": ["The mason carries the arch.", "The river meets"] * 20})
    rows = texts.map(lambda some: tokenizer(some["text"], padding="max_length", truncation=True), batched=True)
    trainer = transformers.Trainer(
        model=ForTrainer(spec),
        args=arguments(tmp_path, num_train_epochs=3, eval_strategy="epoch"),
        train_dataset=rows.shuffle(seed=42).select(range(32)),
        eval_dataset=rows.select(range(8)),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.3),
        processing_class=tokenizer,
        callbacks=[Keeping()],
    )
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(losses) == 3 and all(map(np.isfinite, losses))


@pytest.mark.parametrize("objective", ["causal-lm", "masked-lm"])
def test_padding_marked_by_their_mask_changes_no_loss(objective):
    spec = read_text(SPECS[objective]).architecture
    model = ForTrainer(build(spec, dtype="fp64")).eval()
    tokens = torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(1))
    mask, labels = torch.ones_like(tokens), tokens.clone()
    for row, length in enumerate((12, 7, 3)):
        mask[row, length:] = 0
        labels[row, length:] = -100
    padded = model(input_ids=tokens, attention_mask=mask, labels=labels)["loss"]
    total = count = 0.0
    for row, length in enumerate((12, 7, 3)):
        asked = length - (objective == "causal-lm")
        row_loss = model(input_ids=tokens[row : row + 1, :length], labels=labels[row : row + 1, :length])["loss"]
        total += row_loss.item() * asked
        count += asked
    assert padded.item() == pytest.approx(total / count, abs=1e-9)


def test_labels_are_where_hugging_face_has_them():
    """The causal loss of LlamaForCausalLM's own convention: labels are the input ids."""
    model = ForTrainer(read_text(SPECS["causal-lm"]).architecture, gives="loss and logits").eval()
    tokens = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = model(input_ids=tokens, labels=tokens)
    due = torch.nn.functional.cross_entropy(out["logits"][:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert float(out["loss"]) == pytest.approx(float(due), abs=1e-6)
    assert model(input_ids=tokens).keys() == {"logits"}


def test_what_does_not_go_together_is_said(data, pairs, tmp_path, monkeypatch):
    spec, config, _ = parts("seq2seq", data, pairs)
    with pytest.raises(DataError, match="running text"):
        Rows(data, spec, config)
    with pytest.raises(UsageError, match="leaves no sample"):
        Rows(pairs, spec, config, most=0)
    with pytest.raises(UsageError, match="padded on the left"):
        ForTrainer(spec)(torch.tensor([[0, 5]]), attention_mask=torch.tensor([[0, 1]]), labels=torch.tensor([[1]]))
    with pytest.raises(UsageError, match="neither labels"):
        ForTrainer(spec)(torch.tensor([[4, 5]]))
    with pytest.raises(UsageError, match="need two more"):
        tokenizer_of_data(data, preset("tiny-llama", overrides=["vocab_size=301"]))
    with pytest.raises(RunError, match=r"no spec\.yaml"):
        load_trained(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else found(name, *rest)
    )
    for ask in (Keeping, lambda: tokenizer_of_data(data, spec)):
        with pytest.raises(MissingExtraError, match=r"needs the 'hf' extra \(transformers is not installed\)"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--bf16"]], ids=["fp32", "bf16"])
def test_the_documents_run_shortened(flags, data, tmp_path, monkeypatch, capsys, one_thread):
    """The example script with the tutorial's settings, on a narrow context-aware-bert and fewer examples."""
    script = Path(__file__).parents[2] / "examples" / "hf_trainer.py"
    narrow = [
        "width=48",
        "vocab_size=304",
        "context=32",
        "blocks.layer.mixer.heads=2",
        "blocks.layer.ffn.hidden=96",
        "layers=layer*2",
    ]
    words = ["context-aware-bert", "--data", str(data), "--out", str(tmp_path / "out"), "--train-examples", "200"]
    words += ["--eval-examples", "40", "--learning-rate", "1e-3", *flags]
    words += [part for one in narrow for part in ("--set", one)]
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    found = json.loads(said[said.index("{\n") :])
    losses = [row["eval_loss"] for row in found["epochs"] if "eval_loss" in row]
    assert len(losses) == 3 and losses[-1] < found["before"] - 0.3
    assert len(list((tmp_path / "out").glob("checkpoint-*/spec.yaml"))) == 3
    trained = load_trained(tmp_path / "out")
    assert trained.architecture.name == "context-aware-bert"
