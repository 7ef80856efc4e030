"""Will it run: the limits are exact, and every change that is proposed makes it fit when it is made."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing import size
from vitruvius.sizing.fit import fit, needed_bytes
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.room import LONGEST
from vitruvius.sizing.search import largest
from vitruvius.sizing.training import training_memory
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset
from vitruvius.spec.reading import read_with_findings
from vitruvius.spec.rules import ensure

CARD = device_named("rtx-4090")
GIB = 1024**3


# ----------------------------------------------------------------------------------------------------------------------
# The search


def test_the_search_finds_the_last_number_that_fits_whatever_the_shape():
    draw = random.Random(7)
    for _ in range(300):
        steps = sorted(draw.sample(range(1, 5000), 6))
        heights = sorted(draw.randrange(0, 1000) for _ in range(7))

        def needed(number, steps=steps, heights=heights):
            return heights[sum(number > step for step in steps)] + number * heights[0] // 500

        most, available = draw.choice([1, 2, 100, 4999, 10_000]), draw.randrange(-5, 1100)
        brute = max((n for n in range(1, most + 1) if needed(n) <= available), default=0)
        assert largest(needed, available, start=draw.randrange(1, 6000), most=most) == brute


@pytest.mark.parametrize("shape", [lambda n: 3 * n + 1000, lambda n: n * n, lambda n: 10**9 + n // 1000])
def test_the_search_asks_for_few_bills(shape):
    asked = []

    def needed(number):
        asked.append(number)
        return shape(number)

    found = largest(needed, 10**12, start=8192, most=2**40 - 1)
    assert shape(found) <= 10**12
    assert found == 2**40 - 1 or shape(found + 1) > 10**12
    assert len(asked) <= 45


# ----------------------------------------------------------------------------------------------------------------------
# Limits

WORK = [
    ("llama-3-8b", Workload(context=4096)),
    ("llama-3-8b", Workload(context=2048, mode="qlora", weights="nf4")),
    ("longcontext", Workload(context=8192, weights="int8")),
    ("mamba2", Workload(mode="train")),
    ("tiny-llama-moe", Workload(mode="lora")),
]


@pytest.mark.parametrize(("name", "work"), WORK, ids=lambda value: value if isinstance(value, str) else value.mode)
@pytest.mark.parametrize("count", [1, 3])
def test_one_token_or_one_sequence_more_than_the_largest_does_not_fit(name, work, count):
    graph, found = ensure(preset(name)), fit(preset(name), work, CARD, count)
    for field, most in (("context", found.largest_context), ("batch", found.largest_batch)):
        assert most >= 1

        def needed(number, field=field):
            changed = replace(work, **{field: number})
            return needed_bytes(memory_of(graph, changed), work, count)

        assert needed(most) <= found.available_bytes < needed(most + 1)


def test_what_fits_says_what_is_left_and_what_does_not_what_is_missing():
    fits, too_much = fit(preset("llama-3-8b"), Workload(), CARD), fit(preset("llama-moe"), Workload(), CARD)
    assert fits.fits
    assert fits.spare_bytes == fits.available_bytes - fits.needed_bytes > 0
    assert not fits.changes
    assert not too_much.fits
    assert too_much.spare_bytes < 0
    assert too_much.largest_context == too_much.largest_batch == 0


def test_weights_in_bf16_and_a_cache_of_128k_do_not_fit_the_card_of_the_overview():
    found = fit(preset("llama-3-8b"), Workload(context=131_072), CARD)
    assert not found.fits
    assert found.needed_bytes > 33.2e9


def test_learned_positions_end_the_search():
    assert fit(preset("gpt2"), Workload(), CARD).largest_context == 1024


def test_more_than_enough_room_is_reported_as_no_limit():
    room = replace(CARD, memory_bytes=10**30)
    assert fit(preset("tiny-llama"), Workload(), room).largest_context == LONGEST


# ----------------------------------------------------------------------------------------------------------------------
# Changes

TOO_MUCH = [
    ("llama-3-8b", 1, Workload(context=131_072)),
    ("llama-3-8b", 1, Workload(context=8192, batch=64, cache="fp32")),
    ("llama-3-8b", 1, Workload(context=16_384, mode="qlora", weights="nf4")),
    ("llama-3-8b", 1, Workload(context=2048, mode="train")),
    ("llama-3-8b", 4, Workload(context=4096, mode="train", attention="full", loss="whole")),
    ("llama-moe", 1, Workload(context=131_072)),
    ("llama-moe", 1, Workload(context=4096, mode="lora")),
    ("longcontext-per-layer", 1, Workload(batch=8)),
    ("smollm2-135m", 1, Workload(batch=512, mode="train")),
    ("smollm2-135m", 1, Workload(batch=64, mode="train", weights="fp32", attention="full")),
]


@pytest.mark.parametrize(("name", "count", "work"), TOO_MUCH)
def test_every_change_makes_it_fit_when_its_flags_are_given(name, count, work):
    found = fit(preset(name), work, CARD, count)
    assert not found.fits
    assert found.changes
    for change in found.changes:
        words = [word for flag in change.flags for word in shlex.split(flag)]
        given = list(zip(words[::2], words[1::2], strict=True))
        sets = [value for flag, value in given if flag == "--set"]
        said = {flag.removeprefix("--").replace("-", "_"): value for flag, value in given if flag != "--set"}
        numbers = {flag: int(value) if value.isdigit() else value for flag, value in said.items()}
        number = numbers.pop("count", count)
        bill = size(preset(name, overrides=sets), work, on="rtx-4090", count=number, **numbers)
        assert bill.fits, change
        assert bill.on[0].fit.needed_bytes == change.needed_bytes
        assert bill.memory == change.memory
        assert change.spare_bytes == CARD.usable_bytes * number - change.needed_bytes >= 0


@pytest.mark.parametrize(
    ("work", "family"),
    [
        (Workload(context=2048, batch=8, mode="train", attention="full"), "--attention auto"),
        (Workload(context=8192, batch=64, mode="train", attention="full"), "--batch"),
        (Workload(context=4096, batch=8, mode="train", loss="whole"), "--loss chunked"),
        (Workload(context=1024, batch=64, mode="train"), "--checkpointing layers"),
        (Workload(context=1024, batch=384, mode="train"), "--batch"),
        (Workload(context=8192, batch=2000), "--batch"),
    ],
)
def test_the_first_changes_leave_results_as_they_are(work, family):
    found = fit(preset("smollm2-135m"), work, CARD)
    exact = ("--attention", "--batch", "--loss", "--checkpointing")
    assert not found.fits
    assert all(flag.startswith((*exact, "--accumulate")) for flag in found.changes[0].flags)
    assert any(flag.startswith(family) for change in found.changes for flag in change.flags)


def test_a_smaller_micro_batch_keeps_the_tokens_of_an_update():
    found = fit(preset("smollm2-135m"), Workload(context=1024, batch=384, mode="train", accumulate=2), CARD)
    smaller = next(change for change in found.changes if any(flag.startswith("--batch") for flag in change.flags))
    assert smaller.workload.batch * smaller.workload.accumulate == 384 * 2


def test_several_changes_are_joined_only_where_one_is_not_enough_and_none_of_them_can_go():
    found = fit(preset("llama-moe"), Workload(context=131_072), CARD)
    joined = found.changes[0]
    sets = [shlex.split(flag)[1] for flag in joined.flags if flag.startswith("--set")]
    assert sets
    assert "--dtype nf4" in joined.flags
    ask = {"context": 131_072, "on": "rtx-4090"}
    assert size(preset("llama-moe", overrides=sets), dtype="nf4", **ask).fits
    assert not size(preset("llama-moe", overrides=sets), **ask).fits
    assert not size(preset("llama-moe"), dtype="nf4", **ask).fits


def test_a_change_of_the_spec_can_be_set_in_its_file(tmp_path):
    found = fit(preset("longcontext-per-layer"), Workload(batch=8, context=102_400), CARD)
    wanted = [flag for change in found.changes for flag in change.flags if flag.startswith("--set")]
    reduced = fit(preset("longcontext-per-layer"), Workload(context=102_400), replace(CARD, memory_bytes=16 * GIB))
    wanted += [flag for change in reduced.changes for flag in change.flags if flag.startswith("--set")]
    assert wanted
    for flag in wanted:
        read_with_findings("longcontext-per-layer", overrides=[shlex.split(flag)[1]])


def test_what_no_number_of_devices_holds_is_told_so():
    # Activations of one sequence are not dealt out in training: more devices do not help.
    found = fit(preset("llama-3-8b"), Workload(context=2**30, mode="train", checkpointing="layers"), CARD)
    assert not any("--count" in flag for change in found.changes for flag in change.flags)


def test_a_device_without_room_fits_nothing():
    found = fit(preset("tiny-llama"), Workload(), replace(CARD, memory_bytes=CARD.reserved_bytes))
    assert (found.fits, found.largest_context, found.largest_batch) == (False, 0, 0)


# ----------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"count": 0}, "count=0 is out of range"),
        ({"count": True}, "count=True is out of range"),
        ({"on": ["rtx-4090", "rtx-4090"]}, "rtx-4090 is named twice"),
        ({"on": "rtx-409"}, "there is no device"),
        ({"batch": 2**31 + 1}, "batch=2147483649 is out of range"),
        ({"context": 2**40}, "out of range"),
        ({"context": 4096.0}, "out of range"),
        ({"accumulate": 0}, "accumulate=0 is out of range"),
        ({"rank": 0}, "rank=0 is out of range"),
        ({"mode": "qlora", "dtype": "bf16"}, "qlora freezes quantised weights"),
        ({"mode": "train", "dtype": "nf4"}, "weights in nf4 have no gradients"),
        ({"mode": "lora", "targets": "mlp"}, "targets cannot be 'mlp'"),
        ({"mode": "lora", "experts": "some"}, "experts cannot be 'some'"),
        ({"optimizer": "sgd"}, "there is no optimizer 'sgd'"),
        ({"checkpointing": "all"}, "there is no checkpointing 'all'"),
        ({"cache_dtype": "int3"}, "there is no number format 'int3'"),
        ({"dtpe": "bf16"}, "did you mean dtype?"),
    ],
    ids=str,
)
def test_a_workload_that_makes_no_sense_is_refused(said, message):
    with pytest.raises(UsageError) as refused:
        size(preset("tiny-llama"), **said)
    assert message in str(refused.value)


def test_qlora_without_a_format_is_over_nf4():
    bill = size(preset("llama-3-8b"), mode="qlora", context=1024)
    assert bill.dtype == "nf4"
    assert size(preset("llama-3-8b"), mode="qlora", context=1024, dtype="int8").dtype == "int8"


def test_a_workload_and_keywords_are_one_question():
    work = Workload(context=4096, batch=2, mode="train")
    assert size(preset("tiny-llama"), work) == size(preset("tiny-llama"), context=4096, batch=2, mode="train")
    assert size(preset("tiny-llama"), work, batch=3).batch == 3


@pytest.mark.parametrize("mode", ["inference", "train", "qlora"])
def test_a_context_beyond_all_reason_has_a_bill_in_seconds(mode):
    bill = size(preset("tiny-llama"), context=2**40 - 1, batch=2**31, mode=mode, on="rtx-4090")
    assert bill.fits is False
    assert bill.memory.peak > 2**60
    assert bill.memory.unsure > 0 or mode == "inference"


@pytest.mark.parametrize("checkpointing", ["none", "layers", "layers/2"])
@pytest.mark.parametrize(("context", "batch"), [(2**19 + 1000, 1), (700, 2000)])
def test_what_is_read_off_a_line_agrees_with_a_step_that_is_followed(context, batch, checkpointing):
    work = Workload(context=context, batch=batch, mode="train", checkpointing=checkpointing)
    graph = ensure(preset("llama-3-8b"))
    line, followed = memory_of(graph, work), training_memory(graph, work)
    assert line.unsure > followed.unsure
    assert abs(line.activations - followed.activations) <= line.unsure
    assert line.activations == pytest.approx(followed.activations, rel=1e-3)
