"""`train.preprocess`: functions that change samples before they are learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.errors import Finding
from vitruvius.training.preprocessing.use import HookUse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.training.config import TrainConfig

__all__ = ["MOST_HOOKS", "HookUse", "findings", "without_places"]

MOST_HOOKS = 32


def findings(config: TrainConfig, objective: str | None) -> Iterator[Finding]:
    """What cannot be meant by the hooks of a config. objective: None where the architecture decides it."""
    if len(config.preprocess) > MOST_HOOKS:
        what = f"{len(config.preprocess)} hooks"
        yield Finding(path="train.preprocess", what=what, fix=f"use at most {MOST_HOOKS}")
    for number, use in enumerate(config.preprocess):
        path = f"train.preprocess.{number}"
        file, colon, function = use.hook.rpartition(":")
        if colon and not (file.endswith(".py") and function.isidentifier()):
            what = f"{use.hook!r} names no function of a Python file"
            yield Finding(path=f"{path}.hook", what=what, fix="write file.py:function, or the name of a hook")
        if objective is not None and objective not in _OBJECTIVES.get(use.hook, {objective}):
            what = f"{use.hook} changes what is predicted next, and the objective is {objective}"
            fix = f"use objective: {' or '.join(sorted(_OBJECTIVES[use.hook]))}, or leave it out"
            yield Finding(path=f"{path}.hook", what=what, fix=fix)
        if use.hook == "fim" and (config.packing == "by-length" or config.curriculum):
            what = (
                f"fim puts a document together anew, and {'a stage' if config.curriculum else 'by-length'} would cut it"
            )
            fix = f"leave {'the curriculum' if config.curriculum else 'packing: by-length'} out, or fim"
            yield Finding(path=f"{path}.hook", what=what, fix=fix)


_NEXT_TOKEN = {"causal-lm"}
_OBJECTIVES = {"fim": _NEXT_TOKEN, "span-mask": _NEXT_TOKEN, "token-drop": {*_NEXT_TOKEN, "prefix-lm"}}
"""What the built-in hooks are made for."""


def without_places(uses: Sequence[Any]) -> list[Any]:
    """Hooks as plain data without the folders of their files: the hash of the source says which one it is."""
    return [{**use, "hook": use["hook"].replace("\\", "/").rpartition("/")[2]} for use in uses]
