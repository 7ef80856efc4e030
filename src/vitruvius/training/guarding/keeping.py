"""Keeping what was wrong: the batch of an update as text, and the state before it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.weights import write_tensors
from vitruvius.runs.anomalies import ANOMALY_FILE, ANOMALY_SCHEMA, SAMPLES_FILE, setting_aside
from vitruvius.runs.checkpoints import STATE_FILE, TOKENIZER_FILE
from vitruvius.runs.files import write_json
from vitruvius.runs.manifest import write_manifest
from vitruvius.training.checkpoint import contents_of, size_of
from vitruvius.training.watching.reading import undisturbed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.training.checkpoint import Contents
    from vitruvius.training.guarding.judge import Judgement, Sight
    from vitruvius.training.loop import Trainer


def set_aside(
    trainer: Trainer,
    step: int,
    judgement: Judgement,
    batch: Batch,
    *,
    first: dict[str, Any] | None,
    random: dict[str, Any] | None,
) -> str | None:
    """Write `anomalies/step-N` of the run. What went wrong with that, in words; None where nothing did.

    random: torch's random state before the update; with it the state before the update is kept. Every process calls
    this, and the main one writes. A run never ends because of it: a full disk is told and passed over.
    """
    losses = losses_of(trainer, batch)
    contents = None if random is None else _contents(trainer, random)

    def writing(files: Mapping[str, Mapping[str, Tensor]]) -> str | None:
        kept = None if contents is None else replace(contents, files=files)
        return _written(trainer, step, judgement, batch, first, kept, losses)

    return trainer.engine.with_whole({} if contents is None else contents.files, writing)


@torch.no_grad()
def losses_of(trainer: Trainer, batch: Batch) -> list[float | None]:
    """Nats per target of each sample by itself, as the model is now and without dropout; None where nothing counts.

    Each process computes its share, a row at a time, so that it takes less memory than the update did.
    """
    samples, accumulate = len(batch.sample_ids), trainer.config.accumulate
    share, places = trainer.engine.share(batch, accumulate), trainer.engine.places(samples, accumulate).tolist()
    sums, counts = [0.0] * samples, [0.0] * samples
    pieces = trainer.objective.pieces(share, len(share.inputs), trainer.device)
    with undisturbed(trainer.model):
        for row, piece in enumerate(pieces):
            sample = places[row // batch.rows_per_sample]
            # Where processes share the weights, all of them compute each row, whether it counts here or not.
            if piece.scored or not trainer.engine.has_whole_model:
                sums[sample] += float(trainer.objective.score(trainer.model, piece).double().sum())
                counts[sample] += piece.scored
    totals = trainer.engine.total([*sums, *counts])
    sums, counts = totals[:samples], totals[samples:]
    return [None if not count else total / count for total, count in zip(sums, counts, strict=True)]


def told(sights: Sequence[Sight]) -> list[dict[str, Any]]:
    """What was seen, as JSON data: values as text, since JSON has no word for NaN."""
    return [{**asdict(sight), "value": repr(sight.value)} for sight in sights]


def _written(
    trainer: Trainer,
    step: int,
    judgement: Judgement,
    batch: Batch,
    first: dict[str, Any] | None,
    contents: Contents | None,
    losses: Sequence[float | None],
) -> str | None:
    run = trainer.run.path
    try:
        with setting_aside(run, step, keep=trainer.config.guard.keep_newest) as folder:
            lines = _samples(run, batch, losses)
            (folder / SAMPLES_FILE).write_text("".join(lines), encoding="utf-8")
            if contents is not None:
                _write_state(contents, folder)
            write_json(
                folder / ANOMALY_FILE,
                {
                    "schema": ANOMALY_SCHEMA,
                    "step": step,
                    "batch": trainer.state.batches,
                    "kind": judgement.kind,
                    "verdict": judgement.verdict,
                    "seen": told(judgement.sights),
                    "first_bad": first,
                    "checkpoint": None if contents is None else f"step-{trainer.state.step}",
                    "lr_factor": trainer.state.lr_factor,
                    "retries": trainer.state.retries,
                },
            )
    except OSError as error:
        return f"{error.strerror or error}"
    return None


def _contents(trainer: Trainer, random: dict[str, Any]) -> Contents:
    """The state before the update, with torch's random state as it was then."""
    contents = contents_of(
        trainer.state,
        trainer.model,
        trainer.optimizer,
        belongs_to=trainer.belongs_to,
        companions=trainer.companions,
    )
    return replace(contents, state={**contents.state, "random": random})


def _write_state(contents: Contents, folder: Path) -> None:
    _require_room(folder, size_of(contents))
    target = folder / f"step-{contents.step}"
    target.mkdir()
    for file, tensors in contents.files.items():
        write_tensors(target / file, tensors)
    write_json(target / STATE_FILE, contents.state)
    write_manifest(target)


def _require_room(folder: Path, needed: int) -> None:
    """Twice as much has to be free: the regular checkpoint that may follow is worth more than this one."""
    import shutil

    free = shutil.disk_usage(folder).free
    if free < 2 * needed:
        raise OSError(f"{needed:,} bytes for the state, {free:,} are free")


def _samples(run: Path, batch: Batch, losses: Sequence[float | None]) -> list[str]:
    """A line of JSON for each sample."""
    decode = _decoder(run)
    rows = batch.rows_per_sample
    lines: list[str] = []
    for number, loss in enumerate(losses):
        part = slice(number * rows, (number + 1) * rows)
        tokens: list[int] = batch.inputs[part][batch.documents[part] >= 0].tolist()
        known = {
            "sample": int(batch.sample_ids[number]),
            "epoch": int(batch.epochs[number]),
            "loss": loss if loss is None or math.isfinite(loss) else repr(loss),
            "text": decode(tokens),
            "tokens": tokens,
        }
        lines.append(json.dumps(known, ensure_ascii=False, allow_nan=False) + "\n")
    return lines


def _decoder(run: Path) -> Any:
    """Token ids to text; to None where the run has no tokenizer or it cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(run / TOKENIZER_FILE))
    except Exception:  # noqa: BLE001 (the package raises bare ones)
        return lambda _tokens: None
    return lambda tokens: tokenizer.decode(tokens, skip_special_tokens=False)
