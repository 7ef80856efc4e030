"""`train.pairs`: how pairs of a source and a target become batches, and how many are written out to be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.packing.pairs import PairLimits
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

Most = Annotated[int, Ge(2), Le(2**31 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(Section):
    """How `seq2seq` reads pairs, and how it is scored."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"

    source: Most | None = None
    """Most tokens of a source, its separator included; `context` when not given."""
    target: Most | None = None
    """Most tokens of a target, its separator included; `context` when not given."""
    longer: Literal["cut", "drop"] = "cut"
    """What happens to a pair with a longer text: its end is cut off, or the pair is left out; both are counted."""
    lengths: Literal["mixed", "grouped"] = "mixed"
    """`grouped`: the pairs of a batch are about equally long, within a factor of two."""
    score: Annotated[int, Ge(0), Le(1_000_000)] = 64
    """Held-out pairs whose target is written at each validation, for `val_exact_match` and `val_f1`; 0: none."""

    def limits(self, context: int) -> PairLimits:
        """The limits that the loader takes."""
        from vitruvius.data.packing.pairs import PairLimits as Limits

        source, target = self.source or context, self.target or context
        return Limits(source=source, target=target, longer=self.longer, lengths=self.lengths)

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Limits over the context, and settings that nothing reads."""
        context = config.context or (None if architecture is None else architecture.context)
        for name in ("source", "target"):
            limit: int | None = getattr(self, name)
            if limit is not None and context is not None and limit > context:
                what = f"{limit:,} tokens are more than the context of {context:,}"
                yield Finding(path=f"train.pairs.{name}", what=what, fix=f"use at most {context:,}")
        if config.objective != "seq2seq" and self != Pairs():
            what = f"pairs are read by objective: seq2seq alone, and the objective is {config.objective or 'not given'}"
            yield Finding(path="train.pairs", what=what, fix="add objective: seq2seq, or leave pairs out")
        if config.objective == "seq2seq" and config.curriculum:
            what = "pairs have lengths of their own, which no stage can cut"
            yield Finding(path="train.curriculum", what=what, fix="leave the curriculum out")
        if config.objective == "seq2seq" and context == 1:
            what = "a context of 1 token holds no text besides its separator"
            yield Finding(path="train.context", what=what, fix="use at least 2")
