"""Where each value of a run comes from. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.spec.origins import Setting, settings_of, settings_of_spec
from vitruvius.spec.tree import positions
from vitruvius.training.config import TrainConfig, to_plain
from vitruvius.training.request import read_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NOWHERE = "-"


def settings_of_run(spec: str, *, flags: Mapping[str, Any], settings: Sequence[str]) -> list[Setting]:
    """Every value of the architecture and of `train`, as `vitruvius train` with these arguments would use it.

    Settings of `train` come first, as `train.NAME`. Raises SpecError as `read_request` does.
    """
    # Where data and run folder are is no setting, and need not be known to look at these.
    request = read_request(spec, data=_NOWHERE, out=_NOWHERE, flags=flags, settings=settings)
    default, now = to_plain(TrainConfig()), to_plain(request.config)
    rules = frozenset(name for name, value in now.items() if default[name] is None and value is not None)
    of_run = settings_of(now, positions(request.section), rules=rules)
    named = [
        Setting(path=f"train.{each.path}", value=each.value, origin=each.origin, where=each.where) for each in of_run
    ]
    return [*named, *settings_of_spec(request.reading)]
