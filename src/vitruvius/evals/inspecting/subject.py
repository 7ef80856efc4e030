"""The model that is looked into: that of a run at one of its checkpoints, or a fresh one of a spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data import load_tokenizer
from vitruvius.errors import RunError, UsageError
from vitruvius.nn import build
from vitruvius.nn.weights import find_checkpoint, load_model
from vitruvius.runs.checkpoints import latest_good_checkpoint, tokenizer_path
from vitruvius.runs.folder import RunReader
from vitruvius.spec import read_with_findings, resolve, shrink
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.data import Tokenizer
    from vitruvius.nn import Model
    from vitruvius.runs.folder import Checkpoint
    from vitruvius.runs.models import ModelReader
    from vitruvius.spec import Architecture

LARGEST_BYTES = 2**30
"""A fresh model whose fp32 weights take more than this is looked into through its smaller twin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspected:
    """A model in fp32 and eval mode, and what is known of where it is from."""

    name: str
    model: Model
    run: str | None = None
    """The run folder; None for a spec."""
    step: int | None = None
    """Steps done at the checkpoint; None for fresh weights."""
    tokenizer: Tokenizer | None = None
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    """`path` and `fingerprint` of the data it was trained on, as far as the run says."""
    notes: tuple[str, ...] = ()


def subject_of(
    target: str | Path, *, step: int | None = None, seed: int = 0, overrides: Sequence[str] = ()
) -> Inspected:
    """The newest whole checkpoint of a run folder (or that of a step), or a fresh model of a spec file or preset.

    Raises RunError and CorruptCheckpointError for a run without a usable checkpoint, SpecError for a spec, UsageError
    for a step that has no checkpoint, and for settings that do not go together.
    """
    if Path(target).is_dir():
        if overrides:
            raise UsageError("a run's architecture cannot be changed", where="--set", fix="name a SPEC, or drop --set")
        return _of_run(Path(target), step)
    if step is not None:
        raise UsageError("a spec has no steps", where="--step", fix="name a run folder, or drop --step")
    reading = read_with_findings(str(target), overrides=overrides)
    notes = [str(finding) for finding in reading.findings if finding.severity == "warning"]
    return of_architecture(reading.architecture, seed=seed, notes=notes)


def of_architecture(architecture: Architecture, *, seed: int = 0, notes: Sequence[str] = ()) -> Inspected:
    """A fresh model of an architecture, or of its twin where it is too big for a look."""
    size = 4 * sum(tensor.count for tensor in resolve(architecture).tensors().values())
    said = [f"fresh weights of seed {seed}: nothing is learned, and what is seen is what chance and the design give"]
    if size > LARGEST_BYTES:
        said.append(f"its fp32 weights take {format_bytes(size)}, so a smaller twin of the same kinds is looked into")
        architecture = shrink(architecture)
    model = build(architecture, dtype="fp32", seed=seed).eval()
    return Inspected(name=architecture.name, model=model, notes=(*notes, *said))


def _of_run(folder: Path, step: int | None) -> Inspected:
    run, checkpoint, notes = _chosen(folder, step)
    model = load_model(checkpoint.path, dtype="fp32", verify="headers")  # its hashes were compared just now
    data = run.record()["data"] or {}
    return Inspected(
        name=model.architecture.name,
        model=model,
        run=str(run.path),
        step=checkpoint.step,
        tokenizer=load_tokenizer(tokenizer_path(run.path)),
        data={name: data.get(name) for name in ("path", "fingerprint")},
        notes=tuple(notes),
    )


def _chosen(folder: Path, step: int | None) -> tuple[ModelReader, Checkpoint, list[str]]:
    """The run, and the checkpoint that was asked for or the newest whole one, verified."""
    if not (folder / "run.json").is_file():
        run, checkpoint = find_checkpoint(folder)  # a folder step-N, or the error that says what a run is
        if step not in {None, checkpoint.step}:
            raise UsageError(
                f"this checkpoint is of step {checkpoint.step:,}, not {step:,}", where="--step", fix="name the run"
            )
        checkpoint.verify()
        return run, checkpoint, []
    run = RunReader(folder)
    if step is None:
        choice = latest_good_checkpoint(folder)
        if choice.checkpoint is None:
            raise RunError(
                "this run has no checkpoint yet",
                where=str(folder),
                fix="wait for its first one, or name the SPEC to look into fresh weights",
            )
        damaged = [f"step {bad.step:,} is damaged and passed over: {why.what}" for bad, why in choice.passed_over]
        return run, choice.checkpoint, damaged
    every = run.checkpoints()
    named = [checkpoint for checkpoint in every if checkpoint.step == step]
    if not named:
        known = ", ".join(f"{checkpoint.step:,}" for checkpoint in every[-8:]) or "none"
        raise UsageError(
            f"the run has no checkpoint of step {step:,}", where="--step", fix=f"its latest checkpoints: {known}"
        )
    named[0].verify()
    return run, named[0], []
