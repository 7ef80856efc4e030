"""Samples of a source and a target text: prepared pairs are two documents each, one after the other.

A row holds the source with its separator, then what a decoder reads: the separator that it starts from, and the
target. Its targets are the target's tokens and its separator. Sources have even numbers as documents, targets odd ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from vitruvius.data.packing.efficiency import Efficiency, pairs_within
from vitruvius.data.packing.rows import row_lengths
from vitruvius.data.packing.sample import Blank, Sample, Stretch
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.stream import TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLimits:
    """How long the texts of a pair may be, and which pairs share a batch."""

    source: int
    """Most tokens of a source, its separator included."""
    target: int
    """Most tokens of a target, its separator included."""
    longer: Literal["cut", "drop"] = "cut"
    """What happens to a pair with a longer text: its end is cut off, or it is left out."""
    lengths: Literal["mixed", "grouped"] = "mixed"
    """`grouped`: a batch holds pairs of about one length."""

    def __post_init__(self) -> None:
        """Refuse limits that leave nothing.

        Raises:
            UsageError: names the limit.
        """
        for name, least in (("source", 2), ("target", 2)):
            if getattr(self, name) < least:
                what = f"{getattr(self, name)} tokens hold no text besides its separator"
                raise UsageError(what, where=f"train.pairs.{name}", fix=f"use at least {least}")

    @property
    def row(self) -> int:
        """Tokens of the longest row."""
        return self.source + self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class PairUse:
    """What limits make of pairs."""

    pairs: int
    """Those that are left."""
    sources_cut: int
    targets_cut: int
    left_out: int
    """Pairs with a text over its limit, where those are dropped."""

    def line(self) -> str:
        """In words."""
        text = f"{self.pairs:,} pairs, {self.sources_cut:,} with a source cut short and {self.targets_cut:,} a target"
        return text + (f", {self.left_out:,} left out as too long" if self.left_out else "")

    def to_dict(self) -> dict[str, int]:
        """As JSON data."""
        return {
            "pairs": self.pairs,
            "sources_cut": self.sources_cut,
            "targets_cut": self.targets_cut,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """Which pairs are samples, and how much of each."""

    numbers: np.ndarray
    """The pair of each sample, int64."""
    starts: np.ndarray
    """Where its source starts in the stream, int64."""
    source_lengths: np.ndarray
    """Tokens of the source in the stream, int64."""
    target_lengths: np.ndarray
    use: PairUse


def plan_pairs(stream: TokenStream, limits: PairLimits) -> PairPlan:
    """The pairs of a stream under the limits.

    Raises:
        DataError: a text has no partner, which no prepared pairs lack.
    """
    import numpy as np

    edges = stream.starts(0, stream.documents)
    if stream.documents % 2:
        where = str(stream.shards[0].tokens_path.parent.parent)
        raise DataError("a source has no target", where=where, fix="prepare the pairs again")
    lengths = np.diff(edges).reshape(-1, 2)
    long = lengths > np.array([limits.source, limits.target])
    dropped = long.any(axis=1) if limits.longer == "drop" else np.zeros(len(lengths), dtype=bool)
    numbers = np.flatnonzero(~dropped).astype(np.int64)
    cut = long[numbers].sum(axis=0)
    return PairPlan(
        numbers=numbers,
        starts=edges[0:-1:2][numbers],
        source_lengths=lengths[numbers, 0],
        target_lengths=lengths[numbers, 1],
        use=PairUse(pairs=len(numbers), sources_cut=int(cut[0]), targets_cut=int(cut[1]), left_out=int(dropped.sum())),
    )


@final
class PairSamples:
    """Pairs in rows of one length; a sample is one row, which ends in padding."""

    __slots__ = ("_blank", "_chosen", "_limits", "_plan", "count", "row", "stream")

    def __init__(self, stream: TokenStream, limits: PairLimits, *, row: int, eos_id: int, plan: PairPlan) -> None:
        import numpy as np

        self.stream = stream
        self.row = row
        self._limits = limits
        self._plan = plan
        self._blank = Blank(context=row, eos_id=eos_id)
        sizes = _sizes(plan, limits)
        shorter = [size for size in _rows(limits) if size < row]
        self._chosen: np.ndarray = np.flatnonzero((sizes <= row) & (sizes > max(shorter, default=0)))
        self.count = len(self._chosen)

    @property
    def use(self) -> PairUse:
        """What the limits made of all pairs of the stream."""
        return self._plan.use

    def read(self, number: int) -> Sample:
        """The pair with this number.

        Of a source that is cut the separator stays; a target that is cut does not end, so that nobody learns to end
        there.
        """
        plan, sample = self._plan, self._blank.sample()
        at = int(self._chosen[number])
        start, pair = int(plan.starts[at]), int(plan.numbers[at])
        long_source, long_target = int(plan.source_lengths[at]), int(plan.target_lengths[at])
        source = min(long_source, self._limits.source)
        target = min(long_target, self._limits.target)
        text = self.stream.read(start, start + source)
        wanted = self.stream.read(start + long_source, start + long_source + target)
        end = source + target
        # What is there in a blank row is the separator: of the source's end, and of the decoder's start.
        sample.inputs[: source - 1] = text[:-1]
        sample.inputs[source + 1 : end] = wanted[:-1]
        sample.targets[source:end] = wanted
        sample.documents[:source] = 2 * pair
        sample.documents[source:end] = 2 * pair + 1
        return sample

    def stretches(self, number: int) -> list[Stretch]:
        """The source, and the target."""
        at = int(self._chosen[number])
        start, source = int(self._plan.starts[at]), int(self._plan.source_lengths[at])
        target = int(self._plan.target_lengths[at])
        return [
            Stretch(start=start, length=min(source, self._limits.source)),
            Stretch(start=start + source, length=min(target, self._limits.target)),
        ]

    def efficiency(self) -> Efficiency:
        """What becomes of the pairs of these rows; documents are those of all."""
        plan, use = self._plan, self._plan.use
        sizes = _sizes(plan, self._limits)[self._chosen]
        return Efficiency(
            samples=self.count,
            context=self.row,
            documents=self.stream.documents,
            tokens=self.stream.tokens,
            packed_tokens=int(sizes.sum()),
            cut_documents=use.sources_cut + use.targets_cut + 2 * use.left_out,
            long_documents=use.sources_cut + use.targets_cut,
            attended_pairs=pairs_within(sizes),
            places=self.count * self.row,
        )


def pair_samples(stream: TokenStream, limits: PairLimits, *, eos_id: int) -> list[PairSamples]:
    """The samples of a stream of pairs: one part, or one for each length of rows."""
    plan = plan_pairs(stream, limits)
    return [PairSamples(stream, limits, row=row, eos_id=eos_id, plan=plan) for row in _rows(limits)]


def _rows(limits: PairLimits) -> list[int]:
    return row_lengths(limits.row) if limits.lengths == "grouped" else [limits.row]


def _sizes(plan: PairPlan, limits: PairLimits) -> np.ndarray:
    """Tokens of each pair in its row."""
    import numpy as np

    return np.minimum(plan.source_lengths, limits.source) + np.minimum(plan.target_lengths, limits.target)
