"""A look at hooks before a run starts: each is tried on the first batch, here and in another process. No torch."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from vitruvius.errors import RunError

if TYPE_CHECKING:
    from vitruvius.data.packing.sample import Sample
    from vitruvius.training.loading.reading import Reader
    from vitruvius.training.loading.recipe import Recipe
    from vitruvius.training.preprocessing.base import Hook
    from vitruvius.training.preprocessing.pipeline import Origin, Pipeline

MOST_SAMPLES = 8
"""Samples that hooks are tried on."""
PATIENCE = 60.0
"""Seconds for each of them in the other process."""


def check_hooks(reader: Reader, recipe: Recipe) -> list[str]:
    """Try each hook on the first samples: twice here, in order and backwards, and once in a process of its own.

    Returns what is worth knowing, a line for each hook.

    Raises:
        RunError: a hook fails, gives what is no sample, or gives another thing each time.
    """
    from vitruvius.training.loading.processes import ProcessWorkers

    drawn = reader.batches.drawn(0)
    places = range(min(MOST_SAMPLES, len(drawn.numbers)))
    origins = [reader.origin(drawn, place) for place in places]
    samples = [reader.batches.sample(drawn, place) for place in places]
    lines: list[str] = []
    for hook in reader.hooks.hooks:
        samples, seconds = _tried(reader.hooks, hook, samples, origins)
        lines.append(f"hook {hook.name}: {seconds / len(places) * 1e3:.3g} ms per sample ({len(places)} tried)")
    # Sets of strings and whatever else follows the hash seed come out otherwise there.
    with closing(ProcessWorkers(reader, recipe, workers=1, ahead=1, timeout=PATIENCE, only=list(places))) as workers:
        workers.ask(0)
        elsewhere = workers.take(0)
    here = reader.batches.stacked(drawn, samples, places)
    names = [field.name for field in fields(here)]
    differing = [name for name in names if not np.array_equal(getattr(here, name), getattr(elsewhere, name))]
    if differing:
        hooks = ", ".join(hook.name for hook in reader.hooks.hooks)
        raise RunError(
            f"another process computes other {' and '.join(differing)} from the same samples",
            where=f"train.preprocess ({hooks})",
            fix="let hooks depend on the sample and `draw` alone: no time, no order of sets, no environment",
        )
    return lines


def _tried(hooks: Pipeline, hook: Hook, samples: list[Sample], origins: list[Origin]) -> tuple[list[Sample], float]:
    """What a hook makes of the samples, and how long that took."""
    began = time.perf_counter()
    first = [hooks.apply_one(hook, sample, origin) for sample, origin in zip(samples, origins, strict=True)]
    seconds = time.perf_counter() - began
    backwards = [hooks.apply_one(hook, *pair) for pair in reversed(list(zip(samples, origins, strict=True)))]
    for origin, one, other in zip(origins, first, reversed(backwards), strict=True):
        if not (np.array_equal(one.inputs, other.inputs) and np.array_equal(one.targets, other.targets)):
            raise RunError(
                "it gave one thing the first time and another the second",
                where=f"hook {hook.name}, sample {origin.sample_id:,} of source {origin.source}, epoch {origin.epoch}",
                fix="draw random numbers from `draw` alone, and keep nothing from one sample to the next",
            )
    return first, seconds
