"""The settings of training by concern; each section has a file, a dataclass and its own findings."""

from __future__ import annotations

from vitruvius.training.settings.engine import EngineSettings
from vitruvius.training.settings.guard import Guard
from vitruvius.training.settings.loader import Loader
from vitruvius.training.settings.pairs import Pairs
from vitruvius.training.settings.recovery import Recovery
from vitruvius.training.settings.samples import Samples
from vitruvius.training.settings.scaler import Scaler
from vitruvius.training.settings.section import Section
from vitruvius.training.settings.watch import Watch
from vitruvius.training.settings.zclip import ZClipSettings

SECTIONS: dict[str, type[Section]] = {
    "pairs": Pairs,
    "loader": Loader,
    "engine": EngineSettings,
    "scaler": Scaler,
    "zclip": ZClipSettings,
    "guard": Guard,
    "watch": Watch,
    "samples": Samples,
    "recovery": Recovery,
}
"""Name in `train.NAME` -> its class."""

__all__ = [
    "SECTIONS",
    "EngineSettings",
    "Guard",
    "Loader",
    "Pairs",
    "Recovery",
    "Samples",
    "Scaler",
    "Section",
    "Watch",
    "ZClipSettings",
]
