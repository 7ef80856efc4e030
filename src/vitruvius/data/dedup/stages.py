"""The stages of a job that find duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.dedup.components import Components, ComponentSort
from vitruvius.data.dedup.exact import ExactMatch, ExactSort
from vitruvius.data.dedup.groups import BandMatch, BandSort
from vitruvius.data.dedup.verify import NearMatch

if TYPE_CHECKING:
    from vitruvius.data.dedup.settings import DedupSettings
    from vitruvius.data.job.stage import Stage


def stages(settings: DedupSettings) -> tuple[Stage, ...]:
    """What is done between reading and the split; nothing where no duplicates are dropped."""
    if settings.exact == "off":
        return ()
    exact = (ExactSort(), ExactMatch())
    if settings.near is None:
        return exact
    return (
        *exact,
        BandSort(settings.near),
        BandMatch(),
        Components(),
        ComponentSort(),
        NearMatch(settings.near),
    )
