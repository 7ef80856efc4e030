"""What does not go together in the settings of a run, and with its architecture. No torch."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from vitruvius.errors import Finding
from vitruvius.spec.reporting import listed
from vitruvius.training.config import natural_objective, steps_until
from vitruvius.training.settings import SECTIONS, preprocess
from vitruvius.training.shaping.checking import shape_findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


def findings(config: TrainConfig, architecture: Architecture | None = None) -> list[Finding]:
    """What does not go together in a config, and with the architecture when it is given."""
    found: list[Finding] = []
    if config.batch % config.accumulate:
        found.append(
            Finding(
                path="train.accumulate",
                what=f"{config.accumulate} does not divide batch={config.batch}",
                fix=f"use one of {listed(map(str, divisors(config.batch)))}",
            )
        )
    if config.warmup is not None and config.warmup >= config.steps > 1:
        what = f"the learning rate would rise for {config.warmup:,} steps, and the run has {config.steps:,}"
        found.append(Finding(path="train.warmup", what=what, fix="use fewer warm-up steps, or more steps"))
    if config.muon_lr is not None and config.optimizer != "muon":
        what = f"a learning rate for Muon, and the optimizer is {config.optimizer}"
        found.append(Finding(path="train.muon_lr", what=what, fix="add optimizer: muon, or leave muon_lr out"))
    found += _data_findings(config, config.context or (None if architecture is None else architecture.context))
    if architecture is not None:
        found += _objective_findings(config, architecture)
        found += _packing_findings(config, architecture)
    found += shape_findings(config, architecture)
    natural = None if architecture is None else natural_objective(architecture)
    found += preprocess.findings(config, config.objective or natural)
    for name in SECTIONS:
        found += getattr(config, name).findings(config, architecture)
    if architecture is not None and config.context is not None and config.context > architecture.context:
        what = f"{config.context:,} tokens are more than the architecture's context={architecture.context:,}"
        fix = f"use at most {architecture.context:,}, or raise it in the spec: --set context={config.context}"
        found.append(Finding(path="train.context", what=what, fix=fix))
    return found


def divisors(number: int) -> list[int]:
    """Every whole number that divides another one, the smallest first."""
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _objective_findings(config: TrainConfig, architecture: Architecture) -> Iterator[Finding]:
    natural, chosen = natural_objective(architecture), config.objective
    fits = {"causal-lm": {"causal-lm", "prefix-lm"}, "continuation": {"continuation", "seq2seq"}}
    fits = fits.get(natural, {natural})
    if chosen is not None and chosen not in fits:
        what = f"{chosen} does not fit {architecture.name}, which is made for {natural}"
        yield Finding(path="train.objective", what=what, fix=f"use {' or '.join(sorted(fits))}")
    if architecture.encoder is not None and not architecture.head.causal:
        what = f"the decoder would read the tokens that it is to predict: its head is {architecture.head.kind}"
        fix = "use head: lm, or leave the encoder out and learn masked-lm"
        yield Finding(path="train.objective", what=what, fix=fix)
    if chosen == "prefix-lm" and not any(
        getattr(block.mixer, "prefix", "masked") == "open" for block in architecture.blocks.values()
    ):
        what = "no mixer reads its prefix in both directions"
        fix = "set prefix: open in a mixer, or use objective: causal-lm"
        yield Finding(path="train.objective", what=what, fix=fix)
    if config.mask_token is not None and config.mask_token >= architecture.vocab_size:
        what = f"id {config.mask_token:,} is outside the vocabulary of {architecture.vocab_size:,}"
        yield Finding(path="train.mask_token", what=what, fix=f"use at most {architecture.vocab_size - 1:,}")


def _data_findings(config: TrainConfig, context: int | None) -> Iterator[Finding]:
    if config.mix is not None and not any(config.mix.values()):
        what = "no source has a weight above 0" if config.mix else "no source is named"
        yield Finding(path="train.mix", what=what, fix="write the weight of each source: mix: {web: 0.7, code: 0.3}")
    if config.curriculum and config.packing == "by-length":
        what = "the rows of by-length have lengths of their own, which no stage can cut"
        yield Finding(path="train.curriculum", what=what, fix="leave the curriculum out, or use packing: best-fit")
        return
    before = 0
    for number, stage in enumerate(config.curriculum):
        path, end = f"train.curriculum.{number}", steps_until(stage, config.steps)
        if context is not None and context % stage.context:
            what = f"samples of {context:,} tokens cannot be cut into equal pieces of {stage.context:,}"
            yield Finding(path=f"{path}.context", what=what, fix=f"use a length that divides {context:,}")
        if end <= before:
            what = f"the stage ends at step {end:,}, and the one before it at step {before:,}"
            yield Finding(path=f"{path}.until", what=what, fix="let each stage end later than the one before")
        elif end > config.steps:
            what = f"the stage ends at step {end:,}, and the run has {config.steps:,}"
            yield Finding(path=f"{path}.until", what=what, fix=f"use at most {config.steps:,}, or a share below 1")
        before = max(before, end)


def _packing_findings(config: TrainConfig, architecture: Architecture) -> Iterator[Finding]:
    """Padding at the end of a sample is seen by nobody when attention is causal or documents are kept apart."""
    objective = config.objective or natural_objective(architecture)
    if config.packing == "stream":
        return
    if objective == "seq2seq":
        what = f"seq2seq reads pairs, and {config.packing} is a way to pack running text"
        yield Finding(path="train.packing", what=what, fix="leave packing out; train.pairs says how long texts may be")
    elif objective in {"prefix-lm", "continuation"}:
        what = f"{objective} reads a sample as one text, and samples of {config.packing} end in padding"
        yield Finding(path="train.packing", what=what, fix="use packing: stream")
    elif objective == "masked-lm" and config.documents == "joined":
        what = f"with documents: joined, every token would see the padding of {config.packing}"
        yield Finding(path="train.packing", what=what, fix="use documents: separate, or packing: stream")
