"""Settings from plain data, checked; and the hash that says which checkpoints belong to them. No torch."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from vitruvius.errors import SpecError
from vitruvius.training.config import TrainConfig, resolved, to_plain
from vitruvius.training.explaining import explain
from vitruvius.training.rules import findings
from vitruvius.training.settings import SECTIONS
from vitruvius.training.settings.preprocess import without_places
from vitruvius.training.shaping.signals import waits_for_watch

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from vitruvius.errors import Finding
    from vitruvius.spec import Architecture


def from_plain(plain: dict[str, Any]) -> TrainConfig:
    """The config that plain data means, checked by itself.

    Raises SpecError with a finding for every key that is unknown and every value that is wrong; their paths start
    with `train.`.
    """
    from pydantic import ValidationError

    try:
        config = _adapter().validate_json(json.dumps(plain, allow_nan=True))
    except ValidationError as error:
        by_path: dict[str, Finding] = {}
        for entry in error.errors():
            finding = explain(entry)
            by_path.setdefault(finding.path, finding)
        raise SpecError(list(by_path.values())) from None
    found = findings(config)
    if found:
        raise SpecError(found)
    return config


def ensure(config: TrainConfig, architecture: Architecture) -> TrainConfig:
    """Check a config that was built in Python and fill in its defaults.

    Raises SpecError with every finding.
    """
    checked = from_plain(to_plain(config))
    found = findings(checked, architecture)
    if found:
        raise SpecError(found)
    return resolved(checked, architecture)


def config_hash(config: TrainConfig, spec: dict[str, Any], fingerprint: str) -> str:
    """SHA-256 over everything that decides what a run computes; a checkpoint belongs to one such hash."""
    # What is computed twice comes out the same, so that it has no part in it.
    settings = {name: value for name, value in to_plain(config).items() if name not in WITHOUT_EFFECT}
    settings["preprocess"] = without_places(settings["preprocess"])
    if waits_for_watch(config):
        settings["watch"] = to_plain(config)["watch"] | {"sinks": []}
    text = json.dumps([settings, spec, fingerprint], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


WITHOUT_EFFECT = frozenset({"checkpointing", "compile", "memory_check", "data_check", "keep"}) | {
    name for name, section in SECTIONS.items() if section.effect == "none"
}
"""Settings that change how much memory or disk a run takes, who computes it or what it looks at, and nothing that it
learns; `compile` and `engine` change the order of sums, and with it last bits."""


@cache
def _adapter() -> TypeAdapter[TrainConfig]:
    from pydantic import TypeAdapter as Adapter

    return Adapter(TrainConfig)
