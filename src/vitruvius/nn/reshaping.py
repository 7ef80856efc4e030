"""A built model whose architecture changes in fields that shape no tensor, while its weights stay.

    reshaping = Reshaping(model)
    reshaping.to(with_values(model.architecture, {"blocks.local.mixer.sees.sliding.window": 128}))

What modules derive from a spec when they are built stands in their plain attributes: patterns, scales, specs, widths.
So the changed model is built once more on the meta device, where it costs no memory, and each module takes over the
attributes in which its twin differs from the twin of before. Kernels, masks and tables follow, since they are chosen
and kept by these. What modules gather or are given while they run is not in a twin, and stays.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from vitruvius.errors import UsageError
from vitruvius.nn.build import build

if TYPE_CHECKING:
    from vitruvius.nn.model import Model
    from vitruvius.spec import Architecture

_TORCHS_OWN = frozenset(vars(nn.Module()))
"""Parameters, buffers, submodules, hooks and the mode."""
_MISSING = object()


@final
class Reshaping:
    """The way from one architecture of a model to the next."""

    __slots__ = ("_model", "_twin")

    def __init__(self, model: Model) -> None:
        self._model = model
        self._twin = _twin_of(model, model.architecture)

    @property
    def architecture(self) -> Architecture:
        """Of the model as it is."""
        return self._model.architecture

    def to(self, architecture: Architecture) -> None:
        """Let the model compute, to the bit, what one built of `architecture` computes with the same weights.

        Raises SpecError when the architecture does not fit together, UsageError when its tensors are others, or a
        module keeps what it derived where this does not see it; the model is as it was then.
        """
        twin = _twin_of(self._model, architecture)
        changes = _changes(self._twin, twin)
        mine = dict(self._model.named_modules())
        for name, attributes in changes.items():
            for attribute, value in attributes.items():
                if value is _MISSING:
                    delattr(mine[name], attribute)
                else:
                    setattr(mine[name], attribute, value)
        self._twin = twin
        # Only so many versions of compiled code are kept, and after those all runs uncompiled without a word.
        if changes and "torch._dynamo" in sys.modules:
            torch.compiler.reset()


def _twin_of(model: Model, architecture: Architecture) -> Model:
    return build(architecture, device="meta", dtype=model.dtype)


def _changes(before: Model, after: Model) -> dict[str, dict[str, Any]]:
    """Module -> attribute -> new value, where the two differ."""
    _ensure_same_tensors(before, after)
    modules = dict(before.named_modules())
    found: dict[str, dict[str, Any]] = {}
    for name, module in after.named_modules():
        old, new = _plain(modules[name]), _plain(module)
        changed = {key: new.get(key, _MISSING) for key in old.keys() | new.keys() if not _same(old, new, key)}
        if changed:
            _ensure_plain(name, module, changed)
            found[name] = changed
    return found


def _plain(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _TORCHS_OWN}


def _same(old: dict[str, Any], new: dict[str, Any], key: str) -> bool:
    one, other = old.get(key, _MISSING), new.get(key, _MISSING)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    return type(one) is type(other) and bool(one == other)


def _ensure_plain(name: str, module: nn.Module, changed: dict[str, Any]) -> None:
    """Refuse what is not a plain value: numbers of a tensor made on the meta device are nobody's."""
    kept = set(module.state_dict())
    derived = [key for key, buffer in module.named_buffers(recurse=False) if key not in kept and buffer is not None]
    hidden = sorted([key for key, value in changed.items() if isinstance(value, (Tensor, nn.Module))] + derived)
    if hidden:
        what = f"{name or 'the model'} ({type(module).__qualname__}) keeps {hidden[0]} as a tensor of its own"
        fix = "let the module compute it from its spec in each pass, or take the field out of `schedulable`"
        raise UsageError(what, where="train.shape", fix=fix)


def _ensure_same_tensors(before: Model, after: Model) -> None:
    old, new = ({name: tuple(t.shape) for name, t in model.state_dict().items()} for model in (before, after))
    if old != new:
        name = min(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        what = f"{name} is {old.get(name)} before and {new.get(name)} after"
        raise UsageError(what, where="train.shape", fix="only fields that shape no tensor may change in training")
