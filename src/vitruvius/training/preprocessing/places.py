"""Where a hook's file is when a run file names it: beside that file. No torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from vitruvius.spec.tree import Node
    from vitruvius.training.config import TrainConfig


def beside_their_file(config: TrainConfig, section: Node) -> TrainConfig:
    """The config with hook files relative to the file that names them; those of `--set` stay as they are.

    section: what was written under `train`.
    """
    uses = list(config.preprocess)
    for number, use in enumerate(uses):
        file, colon, function = use.hook.rpartition(":")
        named_in = _named_in(section, number)
        if colon and named_in is not None and not Path(file).is_absolute():
            uses[number] = replace(use, hook=f"{os.path.normpath(Path(named_in).parent / file)}:{function}")
    return replace(config, preprocess=tuple(uses))


def _named_in(section: Node, number: int) -> str | None:
    """The file that names a hook; None where an argument or Python does."""
    node: Any = section
    for key in ("preprocess", str(number), "hook"):
        value: Any = node.value
        if isinstance(value, list):
            value = {str(place): each for place, each in enumerate(cast("list[Any]", value))}
        if not isinstance(value, dict) or key not in value:
            return None
        node = cast("dict[str, Any]", value)[key]
    file: str = node.mark.file
    return None if file.startswith("--") else file
