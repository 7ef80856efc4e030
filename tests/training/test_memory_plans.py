"""What a plan says about memory is what a run takes: 8-bit moments, averages and the copy of a checkpoint included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from vitruvius.checks.memory import measured_on
from vitruvius.runs.available import Available
from vitruvius.spec import preset, shrink
from vitruvius.training import TrainConfig
from vitruvius.training.batch_worker import Updates
from vitruvius.training.checkpoint import TrainState, contents_of, copied, size_of
from vitruvius.training.config import resolved
from vitruvius.training.room import copy_of_run, ensure_room, memory_of_run
from vitruvius.training.settings import Pairs, Recovery
from vitruvius.training.shaping.costs import flops_of_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.training.checkpoint import Contents

DENSE = preset("tiny-llama", overrides=["vocab_size=2000"])
BIASED = preset(
    "tiny-llama-moe", overrides=["vocab_size=500", "blocks.moe.ffn.router={kind: sigmoid, balance_loss: 0.01}"]
)
KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "fp32": {"dtype": "fp32"},
    "muon": {"optimizer": "muon"},
    "8-bit": {"optimizer": "adamw-8bit"},
    "average": {"ema": 0.9},
    "8-bit and average": {"optimizer": "adamw-8bit", "ema": 0.9},
    "fp32 and average": {"dtype": "fp32", "ema": 0.9},
}


def config_of(**settings: Any) -> TrainConfig:
    usual: dict[str, Any] = {"batch": 2, "context": 64, "threads": 1, "device": "cpu", "documents": "joined"}
    return replace(resolved(TrainConfig(**{**usual, **settings}), DENSE), recovery=Recovery(save="behind"))


def contents(updates: Updates) -> Contents:
    updater = updates.updater
    kept = () if updater.average is None else (updater.average,)
    return contents_of(TrainState(), updater.model, updater.optimizer, belongs_to="x", companions=kept)


@pytest.mark.parametrize("architecture", [DENSE, BIASED], ids=["dense", "biased router"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_copy_that_saving_behind_holds_is_predicted_to_the_byte(kind, architecture, one_thread) -> None:
    config = config_of(**KINDS[kind])
    assert copy_of_run(architecture, config) == size_of(contents(Updates(architecture, config, None)))


def test_it_is_fourteen_bytes_a_parameter_in_bf16_with_adamw() -> None:
    memory = memory_of_run(DENSE, config_of())
    assert memory.checkpoint == 7 * memory.weights + 8


def test_nothing_is_counted_where_the_run_waits() -> None:
    assert copy_of_run(DENSE, replace(config_of(), recovery=Recovery())) == 0


class _Saving(Updates):
    """Updates, and a copy of the state that is held through the next one."""

    copy: dict[str, Any]

    def run(self, done: Callable[[str], None]) -> None:
        if not hasattr(self, "copy"):
            self.copy = {}
        copied(contents(self), self.copy)
        done("saving")
        super().run(done)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_peak_of_an_update_is_the_predicted_one(kind, one_thread) -> None:
    config = config_of(**KINDS[kind])
    memory = memory_of_run(DENSE, config)
    plain = measured_on("cpu", lambda: Updates(DENSE, config, None)).peak
    assert plain == pytest.approx(memory.peak, rel=0.02)
    saving = measured_on("cpu", lambda: _Saving(DENSE, config, None)).peak
    assert saving == pytest.approx(memory.peak + memory.checkpoint, rel=0.02)
    assert saving - plain == pytest.approx(memory.checkpoint, rel=1e-3)


def test_who_saves_behind_is_told_when_the_copy_will_not_fit_and_is_not_refused() -> None:
    config = config_of()
    memory = memory_of_run(DENSE, config)
    room = Available(size=memory.peak + memory.checkpoint, limit="memory that the system has available")
    assert ensure_room(DENSE, config, room) is None
    note = ensure_room(DENSE, config, replace(room, size=room.size - 1))
    assert note is not None
    assert note.startswith("recovery.save=behind holds a copy of")
    assert ensure_room(DENSE, replace(config, recovery=Recovery()), replace(room, size=room.size - 1)) is None


SEQUENCE = replace(shrink(preset("seq2seq-small")), vocab_size=2000)


@pytest.mark.parametrize("context", [48, 95, 96])
def test_a_continuation_is_planned_with_the_halves_that_encoder_and_decoder_read(context, one_thread) -> None:
    config = resolved(TrainConfig(batch=32, context=context, dtype="fp32", threads=1, device="cpu"), SEQUENCE)
    assert config.objective == "continuation"
    took = measured_on("cpu", lambda: Updates(SEQUENCE, config, None)).peak
    assert took == pytest.approx(memory_of_run(SEQUENCE, config).peak, rel=0.02)


def test_a_continuation_computes_half_as_much_as_all_of_a_sample_in_both_stacks() -> None:
    half, whole = (
        resolved(TrainConfig(steps=1, batch=1, context=96, **given), SEQUENCE)
        for given in ({}, {"objective": "seq2seq"})
    )
    assert 0.4 < flops_of_run(SEQUENCE, half) / flops_of_run(SEQUENCE, whole) < 0.55
    limited = replace(whole, pairs=Pairs(source=49, target=20))
    assert flops_of_run(SEQUENCE, limited) == flops_of_run(SEQUENCE, half)


RECURRENT = {
    "gla": "{kind: gla, heads: 2}",
    "retnet": "{kind: retnet, heads: 2}",
    "kda": "{kind: kda, heads: 2}",
    "gated-deltanet": "{kind: gated-deltanet, heads: 2}",
    "rwkv7": "{kind: rwkv7, head_width: 32}",
    "mamba2": "{kind: mamba2, heads: 4}",
    "mamba": "{kind: mamba}",
    "short-conv": "{kind: short-conv}",
    "path": "{kind: attention, heads: 4, kv_heads: 2, position: {kind: path}}",
}


@pytest.mark.parametrize("kind", sorted(RECURRENT))
def test_what_recurrences_and_convolutions_do_at_the_borders_of_documents_is_counted(kind, one_thread) -> None:
    overrides = ["vocab_size=500", f"blocks.layer.mixer={RECURRENT[kind]}", "layers=layer*2"]
    architecture = preset("tiny-llama", overrides=overrides)
    planned, took = {}, {}
    for documents in ("joined", "separate"):
        config = TrainConfig(batch=4, context=200, dtype="fp32", threads=1, device="cpu", documents=documents)
        config = resolved(config, architecture)
        planned[documents] = memory_of_run(architecture, config).peak
        took[documents] = measured_on("cpu", lambda config=config: Updates(architecture, config, None)).peak
    assert took == pytest.approx(planned, rel=2e-3)
    assert took["separate"] > took["joined"]
    assert took["separate"] - took["joined"] == pytest.approx(
        planned["separate"] - planned["joined"], rel=0.02, abs=2e4
    )
