"""What has to happen while a Trainer goes: routers settle after each update, and each checkpoint gets its spec."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.nn.ops.compiling import prepare_to_compile
from vitruvius.nn.updates import after_step
from vitruvius.runs.files import write_atomically
from vitruvius.spec import to_yaml
from vitruvius.training.huggingface.extras import require_transformers
from vitruvius.training.huggingface.model import SPEC_FILE, ForTrainer

if TYPE_CHECKING or importlib.util.find_spec("transformers") is not None:
    from transformers import TrainerCallback
else:
    TrainerCallback = object

if TYPE_CHECKING:
    from torch import nn


class Keeping(TrainerCallback):
    """Settles routers after each update, and writes `spec.yaml` beside the weights of each checkpoint.

    Before the first update it readies torch.compile where the Trainer compiles, and refuses `fsdp` where that would do
    nothing.
    """

    def __init__(self) -> None:
        """Raise MissingExtraError where transformers is not installed."""
        require_transformers()
        super().__init__()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first update begins. Raises UsageError where FSDP was asked for and will not be."""
        del state, control
        _ensure_divided(args)
        if getattr(args, "torch_compile", False):
            prepare_to_compile()
        _settle(kwargs.get("model"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An update is done."""
        del args, state, control
        _settle(kwargs.get("model"))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written."""
        del control
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            _write_spec(kwargs.get("model"), folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The output folder, where `save_model` writes by default, gets the spec too."""
        del control
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            _write_spec(kwargs.get("model"), Path(args.output_dir))


def _inner(model: nn.Module | None) -> ForTrainer | None:
    """Ours, however the Trainer has wrapped it."""
    while model is not None and not isinstance(model, ForTrainer):
        inner = getattr(model, "module", None)
        model = inner if inner is not None else getattr(model, "_orig_mod", None)
    return model


def _ensure_divided(args: Any) -> None:
    """Accelerate leaves `fsdp` out on CPUs without a word, and gives every process the whole model."""
    if getattr(args, "fsdp", None) and args.device.type == "cpu":
        raise UsageError(
            "accelerate divides no model on CPUs: each process would have all of it, as without fsdp",
            where="TrainingArguments.fsdp",
            fix="leave fsdp out, or use vitruvius train with train.engine.kind=fsdp2, which divides there too",
        )


def _settle(model: nn.Module | None) -> None:
    if (ours := _inner(model)) is not None:
        after_step(ours.model)


def _write_spec(model: nn.Module | None, folder: Path) -> None:
    if (ours := _inner(model)) is not None:
        write_atomically(folder / SPEC_FILE, to_yaml(ours.architecture).encode())
