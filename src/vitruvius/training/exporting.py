"""A trained model as a folder of its own: weights, architecture, tokenizer, card and manifest, and no run around it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from vitruvius.errors import RunError, UsageError
from vitruvius.nn import build
from vitruvius.nn.weights import ensure_fits, read_parts, read_tensors, tables_that_grow, weights_of
from vitruvius.nn.weights import write_tensors as write_weights
from vitruvius.report.model_card import Training, model_card
from vitruvius.report.tables import code, markdown
from vitruvius.runs import Checkpoint, RunReader, write_manifest
from vitruvius.runs.checkpoints import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    TOKENIZER_FILE,
    latest_good_checkpoint,
    require_room,
    tokenizer_path,
)
from vitruvius.runs.environment import environment
from vitruvius.runs.files import sync_directory, write_atomically, write_json
from vitruvius.runs.models import CARD_FILE, MODEL_RECORD, MODEL_SCHEMA, SPEC_FILE
from vitruvius.runs.retention import validation_losses
from vitruvius.runs.shaped import spec_of
from vitruvius.runs.summary import leaves
from vitruvius.runs.tensorfile import read_header
from vitruvius.sizing import size
from vitruvius.spec import to_data, to_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from vitruvius.spec import Architecture

Weights: TypeAlias = Literal["last", "ema", "best"]
"""`last`: of the newest whole checkpoint; `ema`: their moving average there; `best`: of the lowest `val_loss`."""
Format: TypeAlias = Literal["bf16", "fp16", "fp32"]

AVERAGE_FILE = "ema.safetensors"
"""Moving averages in a checkpoint, in fp32, by the names of the weights."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SLACK = 1 << 20
_NOT_OURS = ("path",)
"""What `data` of a run's record says about the machine and not about the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model that was exported."""

    folder: Path
    step: int
    """Updates that its weights have seen."""
    weights: Weights
    dtype: Format
    parameters: int
    val_loss: float | None
    """Of the run at that step, where it was validated then; of the weights as trained, not of their average."""
    files: Mapping[str, Mapping[str, Any]]
    """Name -> bytes and sha256."""


def export(
    run: Path | str,
    out: Path | str,
    *,
    checkpoint: int | None = None,
    weights: Weights = "last",
    dtype: Format | None = None,
    note: Callable[[str], None] = lambda _text: None,
) -> Exported:
    """Write the model of a run into the new folder `out`, which takes its name when it is whole.

    checkpoint: the step, instead of the newest whole one. dtype: as trained when not given; fp32 are the optimizer's
    masters, rounded nowhere. Raises UsageError for what the run does not have, RunError when `out` is there already,
    CorruptCheckpointError when a byte of the checkpoint is not as it was written.
    """
    reader, out = RunReader(run), Path(out)
    record = reader.record()
    _refuse_existing(out)
    chosen = _chosen(reader, checkpoint, weights, note)
    architecture = spec_of(reader, chosen)
    train: dict[str, Any] = record["config"].get("train") or {}
    form = dtype or train.get("dtype", "fp32")
    if form not in _DTYPES:
        raise RunError(f"run.json has the unknown dtype {form!r}", where=str(reader.path), fix="give --dtype")
    tensors = _tensors(architecture, chosen, weights, form)
    tokenizer = tokenizer_path(reader.path)
    rows = [row for row in reader.metrics() if row.get("step", 0) <= chosen.step]
    told = _record(record, architecture, chosen, weights, form, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(each.numel() * each.element_size() for each in tensors.values()) + tokenizer.stat().st_size + _SLACK
    require_room(out.parent, needed, what="the model")
    with _appearing(out) as partial:
        write_weights(partial / MODEL_FILE, tensors)
        shutil.copyfile(tokenizer, partial / TOKENIZER_FILE)
        write_atomically(partial / SPEC_FILE, to_yaml(architecture).encode())
        write_json(partial / MODEL_RECORD, told)
        files = write_manifest(partial)["files"]
        card = _card(architecture, told, rows, files)
        write_atomically(partial / CARD_FILE, card.encode("utf-8", "backslashreplace"))
    return Exported(
        folder=out,
        step=chosen.step,
        weights=weights,
        dtype=form,
        parameters=size(architecture).parameters.total,
        val_loss=told["weights"]["val_loss"],
        files=files,
    )


def _refuse_existing(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RunError("this is there already, and no folder", where=str(out), fix="choose another --out")
    if out.is_dir() and any(out.iterdir()):
        raise RunError("this folder is not empty", where=str(out), fix="choose another --out, or delete it first")


def _chosen(reader: RunReader, step: int | None, weights: Weights, note: Callable[[str], None]) -> Checkpoint:
    """The checkpoint that is asked for, verified."""
    there = {checkpoint.step: checkpoint for checkpoint in reader.checkpoints()}
    if step is not None and weights == "best":
        raise UsageError("the best checkpoint is found, not named", where="--checkpoint", fix="drop one of the two")
    if step is None and weights == "best":
        losses = validation_losses(reader.path)
        scored = sorted((losses[each], each) for each in there if each in losses)
        if not scored:
            raise UsageError(
                "no checkpoint was validated at its step",
                where="--weights best",
                fix="use --weights last, or train with an eval_every that divides checkpoint_every",
            )
        step = scored[0][1]
    if step is not None:
        if step not in there:
            known = ", ".join(f"{each:,}" for each in sorted(there)[-8:]) or "none"
            raise UsageError(
                f"the run has no checkpoint of step {step:,}",
                where="--checkpoint",
                fix=f"its latest checkpoints: {known}",
            )
        there[step].verify()
        return there[step]
    choice = latest_good_checkpoint(reader.path)
    for damaged, error in choice.passed_over:
        note(f"warning: checkpoint step-{damaged.step} is damaged ({error.where}: {error.what}) and passed over")
    if choice.checkpoint is None:
        raise RunError("this run has no checkpoint yet", where=str(reader.path), fix="wait for its first one")
    return choice.checkpoint


def _tensors(architecture: Architecture, checkpoint: Checkpoint, weights: Weights, form: Format) -> dict[str, Tensor]:
    """The weights by name, in the format that a model of this architecture has them in."""
    found = read_tensors(checkpoint.path / MODEL_FILE)
    model = build(architecture, dtype=_DTYPES[form], device="meta")
    for name, table in tables_that_grow(model).items():
        rows = found.get(f"{name}.weight")
        if rows is not None and rows.dim() == 2:
            table.grow(min(rows.shape[0], table.limit))
    wanted = weights_of(model)
    ensure_fits(wanted, checkpoint.path / MODEL_FILE)
    if weights == "ema":
        found |= _averages(checkpoint, found)
    elif form == "fp32":
        found |= _masters(checkpoint, found, wanted)
    return {name: tensor.to(wanted[name].dtype).contiguous() for name, tensor in found.items()}


def _averages(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    file = checkpoint.path / AVERAGE_FILE
    if not file.exists():
        raise UsageError(
            f"the checkpoint of step {checkpoint.step:,} has no moving averages",
            where="--weights ema",
            fix="use --weights last; averages are kept by runs that were told to",
        )
    found = read_tensors(file)
    odd = sorted(name for name in found if name not in weights or weights[name].shape != found[name].shape)
    if odd:
        what = f"the averages do not fit the weights: {', '.join(odd[:8])}"
        raise RunError(what, where=str(file), fix="use --weights last")
    return found


def _masters(checkpoint: Checkpoint, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fp32 values that narrower weights were rounded from."""
    narrow = [name for name in weights if wanted[name].dtype == torch.float32 and weights[name].dtype != torch.float32]
    if not narrow:
        return {}
    file = checkpoint.path / OPTIMIZER_FILE
    header = read_header(file)
    missing = [name for name in narrow if (entry := header.get(f"master.{name}")) is None or entry.dtype != "F32"]
    if missing:
        raise UsageError(
            f"the optimizer keeps no fp32 master of {', '.join(sorted(missing)[:8])}",
            where="--dtype fp32",
            fix="use the format of training: leave --dtype out",
        )
    masters = read_parts(file, {f"master.{name}": None for name in narrow})
    return {name: masters[f"master.{name}"] for name in narrow}


def _record(
    record: Mapping[str, Any],
    architecture: Architecture,
    checkpoint: Checkpoint,
    weights: Weights,
    form: Format,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """What `model.json` says; nothing about where files lay on the machine."""
    last: Mapping[str, Any] = rows[-1] if rows and rows[-1].get("step") == checkpoint.step else {}
    data = record["data"]
    return {
        "schema": MODEL_SCHEMA,
        "weights": {
            "step": checkpoint.step,
            "kind": weights,
            "dtype": form,
            "tokens": last.get("tokens"),
            "loss": last.get("loss"),
            "val_loss": last.get("val_loss"),
            "val_bits_per_byte": last.get("val_bits_per_byte"),
        },
        "spec": {"text": to_yaml(architecture), "data": to_data(architecture)},
        "config": record["config"],
        "data": None if data is None else {key: value for key, value in data.items() if key not in _NOT_OURS},
        "environment": record["environment"],
        "exported_with": environment(),
    }


def _card(
    architecture: Architecture, told: Mapping[str, Any], rows: list[dict[str, Any]], files: Mapping[str, Any]
) -> str:
    weights: dict[str, Any] = told["weights"]
    result = {key: value for key, value in weights.items() if value is not None}
    record = {**told, "status": f"exported at step {weights['step']:,}", "command": [], "result": result}
    kinds = {
        "last": "as trained",
        "ema": "moving averages of the trained ones",
        "best": "of the lowest validation loss",
    }
    settings = told["config"].get("train") or {}
    about = (
        f"Weights after {weights['step']:,} updates, {kinds[weights['kind']]}, in {weights['dtype']}. `manifest.json` "
        "has these hashes; every byte is compared with them when the model is loaded."
    )
    parts = [
        model_card(architecture, Training(record=record, metrics=rows)).rstrip("\n"),
        "## The files",
        about,
        markdown(
            ("file", "bytes", "SHA-256"), [(code(n), f"{f['bytes']:,}", code(f["sha256"])) for n, f in files.items()]
        ),
        "```sh\nvitruvius generate . --prompt TEXT\n```",
        "## All settings of the run",
        markdown(("setting", "value"), [(code(name), code(str(value))) for name, value in leaves("", settings)]),
    ]
    return "\n\n".join(parts) + "\n"


@contextlib.contextmanager
def _appearing(out: Path) -> Generator[Path]:
    """A folder to write into that takes the name `out`, durably, when the block ends without an error."""
    partial = out.with_name(f".{out.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(partial)
        try:
            partial.rename(out)  # an empty folder is replaced, anything else is not
        except OSError:
            _refuse_existing(out)
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(out.parent)
