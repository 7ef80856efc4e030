"""The stages of a job, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.dedup.stages import stages as duplicate_stages
from vitruvius.data.job.assembling import AssembleStage
from vitruvius.data.job.encoding import EncodeStage
from vitruvius.data.job.reading import ReadStage
from vitruvius.data.job.splitting import SplitStage
from vitruvius.data.job.tokenizing import TokenizerStage

if TYPE_CHECKING:
    from vitruvius.data.job.stage import Stage
    from vitruvius.data.options import PrepareOptions


def stages_of(options: PrepareOptions) -> tuple[Stage, ...]:
    """What is done one after another. Tasks of a stage may run at the same time, stages may not."""
    return (
        ReadStage(),
        *duplicate_stages(options.parts[0].recipe.deduplicate),
        SplitStage(),
        TokenizerStage(),
        EncodeStage(),
        AssembleStage(),
    )
