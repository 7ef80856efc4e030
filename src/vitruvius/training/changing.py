"""Settings that a run may have otherwise when it goes on, because they change nothing that is learned. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.runs import RunReader
from vitruvius.spec.overrides import apply_overrides
from vitruvius.spec.tree import Mark, to_plain, tree_of
from vitruvius.training.checking import WITHOUT_EFFECT, from_plain
from vitruvius.training.launch import agreed_launch
from vitruvius.training.shaping.signals import waits_for_watch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.training.config import TrainConfig


def changes_of(run: Path | str, settings: Sequence[str]) -> dict[str, Any]:
    """What `--set` texts (`train.loader.workers=2`, `train.engine.kind=fsdp2`) change of a run, by name.

    A section that is changed in part keeps the rest of what the run was started with.

    Raises:
        UsageError: one of them is about a setting that decides what is learned, or is no setting at all, or names an
            engine that this launch is none of.
        SpecError: one of them cannot be meant.
        RunError: the folder is no run.
    """
    names = [text.partition("=")[0] for text in settings]
    other = next((name for name in names if not _may_change(name)), None)
    if other is not None:
        raise UsageError(
            f"a resumed run keeps the settings that decide what it learns, so {other!r} cannot be given",
            where="--resume",
            fix=f"these may change: {', '.join(sorted(WITHOUT_EFFECT))}; or train into a new folder",
        )
    if not settings:
        return {}
    recorded = RunReader(run).record()["config"].get("train")
    mark = Mark("run.json", 1, 1)
    tree = apply_overrides(tree_of({"train": recorded if isinstance(recorded, dict) else {}}, mark), settings)
    plain: Any = to_plain(tree)
    config = from_plain(plain["train"])
    if any(name in {"train.engine", "train.engine.kind"} for name in names):
        agreed_launch(config.engine)  # what was asked for by name is not left out without a word
    return {name: getattr(config, name) for name in {name.split(".")[1] for name in names}}


def ensure_changeable(changes: dict[str, Any], config: TrainConfig) -> None:
    """Raise UsageError where one of them decides what is learned by a run with this config."""
    for name in changes:
        if name not in WITHOUT_EFFECT:
            raise UsageError(
                f"a resumed run keeps the settings that decide what it learns, so {name!r} cannot change",
                where="changes",
                fix=f"these may change: {', '.join(sorted(WITHOUT_EFFECT))}",
            )
    watch = changes.get("watch", config.watch)
    if waits_for_watch(config) and replace(watch, sinks=()) != replace(config.watch, sinks=()):
        raise UsageError(
            "a schedule of train.shape waits for what train.watch measures, so that it decides what is learned",
            where="train.watch",
            fix="go on with the watch that the run was started with; its sinks may change",
        )


def _may_change(name: str) -> bool:
    first, *rest = name.split(".")
    return first == "train" and bool(rest) and rest[0] in WITHOUT_EFFECT
