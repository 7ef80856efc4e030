"""Weights on disk: safetensors files whose names are those of the model's parameters."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitruvius.errors import RunError
from vitruvius.nn.build import build
from vitruvius.runs.checkpoints import MODEL_FILE
from vitruvius.runs.models import find_checkpoint
from vitruvius.runs.shaped import spec_of
from vitruvius.runs.tensorfile import TensorEntry, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from vitruvius.nn.model import Model
    from vitruvius.runs import Checkpoint

Verify = Literal["hashes", "headers"]
"""What is checked before loading: every byte against the manifest, or only that the headers make sense."""

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""torch dtype -> its name in a safetensors header."""

FLOATS = {DTYPE_NAMES[dtype]: dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
"""Number formats of weights, by name."""

AVERAGE_FILE = "ema.safetensors"
"""In a checkpoint: averages of the weights, by the same names, of a run with `train.ema`."""

_SHOWN = 8


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors a weights file holds: parameters and persistent buffers, each once however often it is used."""
    kept = model.state_dict().keys()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return weights | {name: buffer for name, buffer in model.named_buffers() if name in kept}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; equal tensors give equal bytes. Raises OSError as the file system does.

    Written here and not by the library: it reports a full disk as an error of its own, and holds a copy of the whole.
    """
    # Wide values first, so that every tensor is aligned whatever its neighbours are.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            raw = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(raw.numpy().data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises RunError when the file is not whole, see `read_header`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"the file cannot be read: {error}", where=str(path), fix="use another checkpoint") from None


def read_parts(path: Path, boxes: Mapping[str, Sequence[slice] | None]) -> dict[str, Tensor]:
    """Parts of the tensors of a safetensors file: a slice of each dimension, or None for the whole of one.

    Nothing else is read. Raises RunError when the file is not whole, see `read_header`.
    """
    from safetensors import SafetensorError, safe_open

    read_header(path)
    found: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name, box in boxes.items():
                if box is None:
                    found[name] = file.get_tensor(name)
                elif any(part.start >= part.stop for part in box):
                    one: Tensor = file.get_slice(name)[tuple(slice(0, 1) for _ in box)]
                    found[name] = one.new_empty([max(0, part.stop - part.start) for part in box])
                else:
                    found[name] = file.get_slice(name)[tuple(box)]
    except (SafetensorError, OSError) as error:
        raise RunError(f"the file cannot be read: {error}", where=str(path), fix="use another checkpoint") from None
    return found


@torch.no_grad()
def load_weights(model: Model, folder: Path | str, *, file: str = MODEL_FILE) -> None:
    """Fill a model from `folder/model.safetensors`; values are rounded to the model's own dtype.

    file: another one of the same tensors. Raises RunError, before anything is changed, when a name, shape or dtype does
    not fit; all findings at once.
    """
    path = Path(folder) / file
    mine = _fitting(model, path)
    for name, tensor in read_tensors(path).items():
        mine[name].copy_(tensor)


@torch.no_grad()
def copy_weights(source: Model, target: Model) -> None:
    """Fill a model with the weights of another one of the same architecture, rounded to its own dtype.

    Tables that grow are made equally long first.
    """
    sources, targets = tables_that_grow(source), tables_that_grow(target)
    for name, table in targets.items():
        rows = max(table.weight.shape[0], sources[name].weight.shape[0])
        table.grow(rows)
        sources[name].grow(rows)
    given = weights_of(source)
    for name, tensor in weights_of(target).items():
        tensor.copy_(given[name])


def _fitting(model: Model, path: Path) -> dict[str, Tensor]:
    """The weights of a model, once its tables are as long as the file's and every name, shape and dtype fits."""
    header = read_header(path)
    _grow_tables(model, header)
    mine = weights_of(model)
    ensure_fits(mine, path)
    return mine


def ensure_fits(mine: Mapping[str, Tensor], path: Path) -> None:
    """Raise RunError, with all findings at once, unless a file has the weights `mine` by name, shape and kind."""
    findings = _misfits(mine, read_header(path))
    if findings:
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise RunError(
            "the weights do not fit the architecture: " + "; ".join(findings[:_SHOWN]) + more,
            where=str(path),
            fix="load them into the architecture they were trained with",
        )


def load_model(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    verify: Verify = "hashes",
    weights: Literal["last", "ema"] = "last",
) -> Model:
    """The trained model of a run folder, one of its checkpoints (`RUN/checkpoints/step-N`) or an export, in eval mode.

    The architecture comes from the folder's record. what `train.shape` had made of it by then. `dtype` is the one the
    weights were written in when not given. weights: `ema` are the averages of a run with `train.ema`.
    Raises RunError when the folder has no checkpoint or the weights do not fit, CorruptCheckpointError when a byte
    differs from the manifest, SpecError when the recorded architecture is not one.
    """
    run, checkpoint = find_checkpoint(folder)
    if verify == "hashes":
        checkpoint.verify()
    architecture = spec_of(run, checkpoint)
    if dtype is None:
        dtype = _dtype_of(checkpoint)
    # On the meta device first: a record that does not fit its weights is refused before any memory is taken for it.
    _fitting(build(architecture, dtype=dtype, device="meta"), checkpoint.path / MODEL_FILE)
    model = build(architecture, dtype=dtype)
    load_weights(model, checkpoint.path, file=_file_of(checkpoint, weights))
    return model.to(device).eval()


def _file_of(checkpoint: Checkpoint, weights: Literal["last", "ema"]) -> str:
    if weights == "ema" and not (checkpoint.path / AVERAGE_FILE).is_file():
        raise RunError(
            "this checkpoint has no average of the weights",
            where=str(checkpoint.path),
            fix="train with --set train.ema=0.999, or take the last weights",
        )
    return MODEL_FILE if weights == "last" else AVERAGE_FILE


def tables_that_grow(model: nn.Module) -> dict[str, Any]:
    """Modules with a table that can be made longer (`grow(rows)`, up to `limit`), by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "grow")}


def _dtype_of(checkpoint: Checkpoint) -> torch.dtype:
    """The format of most weights; what is kept in more precision than the model is little beside them."""
    counts = dict.fromkeys(FLOATS, 0)
    for entry in read_header(checkpoint.path / MODEL_FILE).values():
        if entry.dtype in counts:
            counts[entry.dtype] += prod(entry.shape)
    return FLOATS[max(counts, key=counts.__getitem__)] if any(counts.values()) else torch.float32


def _grow_tables(model: Model, header: Mapping[str, TensorEntry]) -> None:
    """Learned tables that grew in training grow here too, up to their own limit."""
    for name, table in tables_that_grow(model).items():
        entry = header.get(f"{name}.weight")
        if entry is not None and len(entry.shape) == 2:
            table.grow(min(entry.shape[0], table.limit))


def _misfits(mine: Mapping[str, Tensor], header: Mapping[str, TensorEntry]) -> list[str]:
    findings = [f"{name} is missing" for name in sorted(mine.keys() - header.keys())]
    findings += [f"{name} is not in this architecture" for name in sorted(header.keys() - mine.keys())]
    for name in sorted(mine.keys() & header.keys()):
        tensor, entry = mine[name], header[name]
        if tuple(tensor.shape) != entry.shape:
            findings.append(f"{name} is {list(entry.shape)}, expected {list(tensor.shape)}")
        elif tensor.is_floating_point() != (entry.dtype in FLOATS):
            findings.append(f"{name} is {entry.dtype}, expected {tensor.dtype}")
    return findings
