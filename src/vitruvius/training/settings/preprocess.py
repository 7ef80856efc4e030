"""`train.preprocess`: functions that change samples before they are learned from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Len

from vitruvius.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.training.config import TrainConfig

MOST_HOOKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HookUse:
    """A hook of `train.preprocess`, and how it is called."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    hook: Annotated[str, Len(1, 4096)]
    """A built-in one by its name, an installed one by that of its entry point, or `file.py:function`."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the function gets by name."""
    sha256: str | None = None
    """Of its source; filled in when the run starts. A hook with another source is refused."""


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
