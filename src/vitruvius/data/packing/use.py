"""What a run makes of its data: whose text it reads how often, how samples are packed, how long they are when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.data.packing.batches import PackedBatches
    from vitruvius.data.packing.curriculum import Stage
    from vitruvius.data.packing.efficiency import Efficiency
    from vitruvius.data.packing.pairs import PairUse

MOST_EPOCHS = 4
"""Text that is read this often counts almost as much as new text, and soon less when it is read more (Muennighoff et
al., "Scaling Data-Constrained Language Models", 2023)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUse:
    """What a source is to a run."""

    source: str
    share: float
    """Part of all samples that are its own."""
    bound: float
    """After any number of samples its count is within this of its share of them."""
    epochs: float
    """How often the run reads it."""
    packing: Efficiency
    """What becomes of its tokens in an epoch."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "source": self.source,
            "share": self.share,
            "epochs": self.epochs,
            "repeated_too_often": self.epochs > MOST_EPOCHS,
            **self.packing.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUse:
    """What a run makes of its data."""

    packing: str
    padding_share: float
    """Part of all places of the run's samples that is padding."""
    sources: tuple[SourceUse, ...]
    """Those that are drawn from."""
    left_out: tuple[str, ...]
    """Sources that are not."""
    context: int
    """Tokens per sample after the last stage."""
    curriculum: tuple[Stage, ...]
    pairs: PairUse | None = None
    """What the limits of pairs make of them, where samples are pairs."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "packing": self.packing,
            "padding_share": self.padding_share,
            "sources": [source.to_dict() for source in self.sources],
            "left_out": list(self.left_out),
            "curriculum": [{"until": stage.until, "context": stage.context} for stage in self.curriculum],
            **({} if self.pairs is None else {"pairs": self.pairs.to_dict()}),
        }

    def lines(self) -> list[str]:
        """What is worth saying of it, a line each; nothing of one source in a plain stream, read a few times."""
        found: list[str] = []
        if len(self.sources) > 1 or self.left_out:
            found.append("sources: " + "; ".join([*map(_described, self.sources), *map(_without, self.left_out)]))
        if self.pairs is not None:
            found.append(f"{self.pairs.line()}; {self.padding_share:.2%} padding")
        elif self.packing != "stream":
            cut = sum(source.packing.cut_documents for source in self.sources)
            documents = sum(source.packing.documents for source in self.sources)
            found.append(
                f"packing {self.packing}: {self.padding_share:.2%} padding, {cut:,} of {documents:,} documents cut"
            )
        if self.curriculum:
            stages = ", ".join(f"{stage.context:,} tokens until step {stage.until:,}" for stage in self.curriculum)
            found.append(f"sample lengths: {stages}, then {self.context:,}")
        often = [source for source in self.sources if source.epochs > MOST_EPOCHS]
        if often and len(self.sources) > 1:
            names = ", ".join(source.source for source in often)
            found.append(
                f"{names}: text that is read more than {MOST_EPOCHS} times teaches less and less "
                "(Muennighoff et al., 2023)"
            )
        return found


def use_of(batches: PackedBatches, *, steps: int) -> DataUse:
    """What a run of so many steps makes of its data."""
    epochs, found = batches.epochs(steps), batches.efficiency()
    uses = tuple(
        SourceUse(
            source=share.source,
            share=share.share,
            bound=share.bound,
            epochs=epochs[share.source],
            packing=found[share.source],
        )
        for share in batches.shares
    )
    return DataUse(
        packing=batches.packing,
        padding_share=sum(use.share * use.packing.padding_share for use in uses),
        sources=uses,
        left_out=batches.left_out,
        context=batches.context,
        curriculum=batches.curriculum,
        pairs=batches.pair_use(),
    )


def _described(use: SourceUse) -> str:
    return f"{use.source} {use.share:.1%} of the samples, read {use.epochs:.2f} times"


def _without(name: str) -> str:
    return f"{name} left out"
