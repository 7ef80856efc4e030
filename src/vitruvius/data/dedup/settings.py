"""What counts as a duplicate: the settings of both searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitruvius.errors import DataError

ExactMatching = Literal["off", "text"]

LARGEST_NGRAM = 64
LARGEST_SIGNATURE = 4096
LARGEST_KEEPERS = 2**20
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NearSettings:
    """When two texts are near duplicates, and how surely such a pair is found.

    Two texts are near duplicates where the Jaccard similarity of their sets of word n-grams is at least `threshold`.
    Candidates come from banded MinHash signatures (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
    Datasets, chapter 3): a pair of similarity s is looked at with probability 1 - (1 - s**rows)**bands, and is then
    compared exactly. FineWeb (Penedo et al. 2024) used 5-grams and 14 bands of 8 rows, which find 92.4 % of the pairs
    at 0.8; the bands here find 99.8 % with signatures 7 % longer.
    """

    threshold: float = 0.8
    """Least Jaccard similarity of a near duplicate."""
    ngram: int = 5
    """Words in a shingle."""
    bands: int = 20
    """Bands of the signature; two texts are compared where one band is equal."""
    rows: int = 6
    """Minima in a band."""
    keepers: int = 64
    """Of the texts with one equal band at most so many kept ones, the first by rank, are compared with the next. This
    bounds the work where boilerplate makes thousands share a band; a text that is like none of the first then stays."""
    seed: int = 0
    """Another seed draws other hash functions, so other pairs are missed by chance."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            DataError: names the setting.
        """
        _check_number("threshold", self.threshold, "above 0 and at most 1", least=0.0, most=1.0)
        _check_count("ngram", self.ngram, most=LARGEST_NGRAM)
        _check_count("bands", self.bands, most=LARGEST_SIGNATURE)
        _check_count("rows", self.rows, most=LARGEST_SIGNATURE)
        _check_count("keepers", self.keepers, most=LARGEST_KEEPERS)
        _check_count("seed", self.seed, most=LARGEST_SEED, least=0)
        if self.permutations > LARGEST_SIGNATURE:
            raise DataError(
                f"bands x rows is {self.permutations:,}; a signature has at most {LARGEST_SIGNATURE:,} minima",
                where="near.bands",
                fix="use fewer bands or rows, such as 20 and 6",
            )

    @property
    def permutations(self) -> int:
        """Hash functions of a signature."""
        return self.bands * self.rows

    def recall_at(self, similarity: float) -> float:
        """Probability that a pair of this Jaccard similarity is compared at all."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.bands

    def recall_near_threshold(self) -> dict[float, float]:
        """Similarity -> probability of being compared, for 0.05 below the threshold, the threshold and 0.05 above."""
        around = (self.threshold - 0.05, self.threshold, self.threshold + 0.05)
        return {round(s, 6): self.recall_at(s) for s in around if 0.0 <= s <= 1.0}

    def describe(self) -> str:
        """One line: the rule, and how surely pairs around the threshold are found."""
        chances = ", ".join(f"{chance:.1%} at {s:g}" for s, chance in self.recall_near_threshold().items())
        return (
            f"Jaccard >= {self.threshold:g} of {self.ngram}-word shingles; "
            f"{self.bands} bands of {self.rows} compare {chances}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSettings:
    """Which duplicates are dropped. The default drops none."""

    exact: ExactMatching = "off"
    """`text`: of documents with the same text only the first stays, by the name of its file and its place there."""
    near: NearSettings | None = None
    """None: near duplicates stay."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            DataError: names the setting.
        """
        if self.exact not in ("off", "text"):
            raise DataError(f"{self.exact!r} is no way to compare texts", where="dedup.exact", fix="use off or text")
        if self.near is not None and self.exact == "off":
            raise DataError(
                "near duplicates are searched among documents that differ, so exact ones have to go first",
                where="dedup.exact",
                fix="set exact to text, or near to none",
            )


def _check_number(name: str, value: object, wanted: str, *, least: float, most: float) -> None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and least < value <= most
    if not fine:
        raise DataError(f"{value!r} is no {name}", where=f"near.{name}", fix=f"use a number {wanted}")


def _check_count(name: str, value: object, *, most: int, least: int = 1) -> None:
    fine = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    if not fine:
        raise DataError(f"{value!r} is no {name}", where=f"near.{name}", fix=f"use a whole number, {least} to {most:,}")
