"""Another loader for a run that goes on: it changes no bits, so it may be another one each time. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.errors import RunError, UsageError
from vitruvius.runs import RunReader
from vitruvius.spec.overrides import apply_overrides
from vitruvius.spec.tree import Mark, to_plain, tree_of
from vitruvius.training.checking import from_plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.training.settings import Loader

PREFIX = "train.loader."


def changed_loader(run: Path | str, settings: Sequence[str]) -> Loader | None:
    """The loader that a run was started with under `--set` texts (`train.loader.workers=2`); None without any.

    Raises:
        UsageError: one of them is about something else.
        SpecError: one of them cannot be meant.
        RunError: the folder is no run.
    """
    other = next((text for text in settings if not text.startswith(PREFIX)), None)
    if other is not None:
        what = f"a resumed run keeps its settings, so {other.partition('=')[0]!r} cannot be given"
        raise UsageError(what, where="--resume", fix=f"only {PREFIX}NAME may change; or train into a new folder")
    if not settings:
        return None
    recorded = (RunReader(run).record()["config"].get("train") or {}).get("loader") or {}
    if not isinstance(recorded, dict):
        raise RunError("config.train.loader is no mapping", where=str(run), fix="restore run.json from a copy")
    mark = Mark("run.json", 1, 1)
    tree = apply_overrides(tree_of({"train": {"loader": recorded}}, mark), settings)
    plain: Any = to_plain(tree)
    return from_plain(plain["train"]).loader
