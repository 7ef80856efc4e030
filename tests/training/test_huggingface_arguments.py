"""What `TrainingArguments` may ask of a Trainer that drives our models: it works as expected, or is refused clearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_huggingface import BODY, MIXTURE, losses_of, trainer_of  # pyright: ignore[reportMissingImports]

from vitruvius.errors import UsageError
from vitruvius.nn.weights import weights_of
from vitruvius.spec import read_text
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.huggingface import ForTrainer, load_trained

SCRIPT = Path(__file__).with_name("huggingface_ranks.py")
TIED = BODY.replace("SEES", "causal") + "head: {kind: lm, tied: true}\nlayers: a*2\n"
SOFTMAX = MIXTURE.replace("router: sigmoid", "router: {kind: softmax, balance_loss: 0.5}")


@pytest.fixture
def made(data, tmp_path, one_thread):
    """A Trainer that sees the batches of our loop."""

    def make(text=MIXTURE, name="out", **settings):
        spec = read_text(text).architecture
        given = {"max_steps": 4, "order": "training", "train_sampling_strategy": "sequential", **settings}
        return trainer_of(spec, ensure(TrainConfig(batch=4), spec), data, tmp_path / name, **given)

    return make


@pytest.fixture
def trained(made):
    def train(*given, resume=None, **settings):
        trainer = made(*given, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def test_layers_that_are_computed_again_change_no_bit(trained):
    plain = losses_of(trained())
    assert losses_of(trained(activation_checkpointing=True)) == plain
    assert losses_of(trained(gradient_checkpointing=True)) == plain
    some = trained(activation_checkpointing=True, activation_checkpointing_kwargs={"every_n_layers": 2})
    assert losses_of(some) == plain and some.model.model.checkpointing == "layers/2"
    some.model.gradient_checkpointing_disable()
    assert some.model.model.checkpointing == "none"


@pytest.mark.parametrize("option", [{"every_n_layers": 5}, {"offload": True}])
def test_what_layers_cannot_do_again_is_refused(option, made):
    with pytest.raises(UsageError, match=r"every_n_layers=5|to the host"):
        made(activation_checkpointing=True, activation_checkpointing_kwargs=option).train()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_it_has_the_same_losses_and_its_checkpoints_are_read(trained, tmp_path, request):
    from torch import _dynamo
    from torch._functorch import config

    request.addfinalizer(torch.compiler.reset)
    config.enable_autograd_cache = True
    torch.compiler.reset()
    plain = trained()
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "save_strategy": "steps", "save_steps": 2}
    traced = trained(name="traced", **settings)
    assert _dynamo.utils.counters["stats"]["unique_graphs"] > 0
    np.testing.assert_allclose(losses_of(traced), losses_of(plain), rtol=1e-5)
    assert traced.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)
    assert config.enable_autograd_cache is False and _dynamo.config.recompile_limit >= 64
    # Uncompiled it goes on from there.
    resumed = trained(name="traced", resume=str(tmp_path / "traced" / "checkpoint-2"))
    np.testing.assert_allclose(losses_of(resumed)[-2:], losses_of(plain)[-2:], rtol=1e-5)
    assert load_trained(tmp_path / "traced" / "checkpoint-4").architecture.name == "small"


@pytest.mark.parametrize("text", [TIED, MIXTURE], ids=["tied", "mixture"])
def test_a_run_resumed_between_epochs_ends_in_the_bits_of_the_straight_one(text, trained, tmp_path):
    """With the bias and the load of routers, and a second half of an accumulated epoch."""
    given = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2, "bf16": True}
    given["gradient_accumulation_steps"] = 2
    straight = trained(text, **given)
    resumed = trained(text, resume=str(tmp_path / "out" / "checkpoint-2"), **given)
    assert losses_of(resumed) == losses_of(straight)
    one, other = (dict(each.model.model.state_dict()) for each in (straight, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_pieces_in_bf16_come_to_the_loss_of_the_whole_batch(trained):
    whole = losses_of(trained(bf16=True))
    pieces = trained(bf16=True, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    np.testing.assert_allclose(losses_of(pieces), whole, rtol=1e-3)


def test_auxiliary_losses_are_in_the_loss_of_training_and_not_in_that_of_evaluation(trained):
    with_balance = trained(SOFTMAX, learning_rate=0.0)
    without = trained(SOFTMAX.replace("balance_loss: 0.5", "balance_loss: 0.0"), learning_rate=0.0)
    more = np.subtract(losses_of(with_balance), losses_of(without))
    assert (more > 0.4).all(), "half of a balance loss of at least one"
    assert with_balance.evaluate()["eval_loss"] == without.evaluate()["eval_loss"]


@pytest.mark.parametrize("text", [TIED, MIXTURE], ids=["tied", "mixture"])
def test_the_best_model_comes_back_at_the_end(text, trained, tmp_path):
    best = trained(
        text, max_steps=6, learning_rate=3.0, lr_scheduler_type="linear", warmup_steps=6, save_strategy="steps",
        save_steps=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    found = [row["eval_loss"] for row in best.state.log_history if "eval_loss" in row]
    at = int(np.argmin(found))
    assert at < len(found) - 1, "the rate is so high that the last model is not the best"
    assert best.evaluate()["eval_loss"] == pytest.approx(found[at], rel=1e-6)
    saved = load_trained(tmp_path / "out" / f"checkpoint-{at + 1}")
    assert all(torch.equal(tensor, weights_of(best.model.model)[name]) for name, tensor in weights_of(saved).items())


def test_predictions_are_logits_where_they_are_asked_for(trained):
    trainer = trained(TIED)
    rows = len(trainer.eval_dataset)
    assert trainer.predict(trainer.eval_dataset).label_ids.shape == (rows, 33)
    trainer.model.gives = "loss and logits"
    found = trainer.predict(trainer.eval_dataset)
    assert found.predictions.shape == (rows, 33, 304)
    logits = torch.from_numpy(found.predictions[:, :-1]).flatten(0, 1)
    due = torch.nn.functional.cross_entropy(logits, torch.from_numpy(found.label_ids[:, 1:]).flatten())
    assert found.metrics["test_loss"] == pytest.approx(float(due), rel=1e-5)


def test_noise_on_the_embedding_is_there_in_training_alone(trained):
    plain, noisy = (trained(TIED, learning_rate=0.0, neftune_noise_alpha=alpha) for alpha in (None, 5.0))
    assert all(one != other for one, other in zip(losses_of(plain), losses_of(noisy), strict=True))
    assert plain.evaluate()["eval_loss"] == noisy.evaluate()["eval_loss"]


def test_what_needs_a_config_of_theirs_or_rows_of_theirs_says_so(made):
    with pytest.raises(AttributeError, match="label_smoothing_factor: leave it out"):
        made(label_smoothing_factor=0.1)
    assert not hasattr(ForTrainer(read_text(TIED).architecture), "config")
    with pytest.raises(ValueError, match="infer lengths"):
        made(order="given", train_sampling_strategy="group_by_length").train()


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_does_and_fsdp_is_refused_on_cpus(asked):
    found = asked()
    one, first, again = found["one"], *([end["value"] for end in found[name]] for name in ("two", "resumed"))
    for each in (*first, *again):
        assert each is not None, found
        np.testing.assert_allclose(each["losses"], one["losses"], rtol=1e-5)
        assert each["eval"] == pytest.approx(one["eval"], rel=1e-5)
    assert first[0]["weights"] == first[1]["weights"]
    assert [each["weights"] for each in again] == [each["weights"] for each in first]
    assert {"model.safetensors", "spec.yaml"} <= set(found["files"])
    assert all("accelerate divides no model on CPUs" in end["error"] for end in found["fsdp"])
