"""A run that cannot fit is refused before anything is built, with the numbers and the way out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.errors import UsageError
from vitruvius.runs.available import Available
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.config import resolved
from vitruvius.training.room import changes, ensure_room, memory_of_run

DESIGN = preset("tiny-llama")
CONFIG = resolved(TrainConfig(batch=8, documents="joined"), DESIGN)
NEEDED = memory_of_run(DESIGN, CONFIG).peak


def has(size):
    return Available(size=size, limit="memory that the system has available")


def test_a_run_that_fits_is_left_alone():
    assert ensure_room(DESIGN, CONFIG, has(NEEDED)) is None


def test_where_nobody_tells_what_there_is_nothing_is_refused():
    assert ensure_room(DESIGN, CONFIG, None) is None


def test_a_run_that_does_not_fit_is_refused_with_both_numbers_and_changes_that_do_fit():
    with pytest.raises(UsageError) as refused:
        ensure_room(DESIGN, CONFIG, has(NEEDED - 1))
    assert refused.value.exit_code == 2
    assert "memory that the system has available" in refused.value.what
    assert "--set train.accumulate=2" in refused.value.fix
    assert "--set train.memory_check=warn" in refused.value.fix


def test_every_change_that_is_named_fits():
    for change in changes(DESIGN, CONFIG):
        if change.peak > NEEDED // 2:
            continue
        with pytest.raises(UsageError) as refused:
            ensure_room(DESIGN, CONFIG, has(change.peak))
        assert change.setting in refused.value.fix or refused.value.fix.count("takes") == 3


def test_where_nothing_helps_the_least_is_said():
    with pytest.raises(UsageError) as refused:
        ensure_room(DESIGN, CONFIG, has(1000))
    assert refused.value.fix.startswith("even --set train.accumulate=8 --set train.checkpointing=layers takes")


def test_who_wants_to_try_anyway_is_warned():
    note = ensure_room(DESIGN, replace(CONFIG, memory_check="warn"), has(1000))
    assert note is not None
    assert note.startswith("warning: a step of this run takes")


def test_checkpointing_and_smaller_pieces_take_less():
    base = memory_of_run(DESIGN, replace(CONFIG, accumulate=2)).peak
    assert memory_of_run(DESIGN, replace(CONFIG, accumulate=2, checkpointing="layers")).peak < base < NEEDED


def test_packed_documents_take_masks_of_their_own_up_to_what_is_unsure():
    memory = memory_of_run(DESIGN, replace(CONFIG, documents="separate"))
    assert memory.unsure > 0
    assert memory.peak - memory.unsure >= 0.9 * NEEDED


def test_a_single_sample_of_a_single_token_has_no_change_left_but_checkpointing():
    tiny = resolved(TrainConfig(batch=1, context=1, documents="joined"), DESIGN)
    assert [change.setting for change in changes(DESIGN, tiny)] == ["--set train.checkpointing=layers"]
