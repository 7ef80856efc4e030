"""Labelled near duplicates: real text, edited so that the exact Jaccard similarity of every pair is known beforehand.

A base text is made of lines of the given sources, each kept only while all its word n-grams are new, so that no two
base texts share a shingle and none has one twice. An edit at places far enough from each other then changes a number of
shingles that can be counted on paper, from which the similarity follows as a fraction. Where words that an edit brings
together happen to be an n-gram that the text has anyway, the family is left out.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ABOVE = (0.97, 0.95, 0.92, 0.9, 0.87, 0.85, 0.83, 0.81)
BELOW = (0.79, 0.78, 0.76, 0.73, 0.7, 0.6, 0.5)
"""Similarities that are aimed at, for a threshold of 0.8; they are moved with the threshold. Every third pair of a kind
is at the threshold exactly, where the length of the text allows it."""

_WORD = re.compile("[A-Za-z0-9]+")
_HEADER = ["Home", "News", "Archive", "Search", "Log", "in", "Register", "Follow", "this", "page", "Print", "version"]
_SHORTEST, _LONGEST = 60, 500

Word = tuple[str, str]
"""What stands before a word, and the word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Texts that are alike, and how much; none is like a text of another family."""

    kind: str
    """How they were made."""
    texts: tuple[str, ...]
    """All different."""
    similarities: dict[tuple[int, int], Fraction]
    """For each pair of texts (the smaller number first) the Jaccard similarity of their shingles."""

    def dropped(self, threshold: float) -> set[int]:
        """The texts that deduplication by rank drops: the longer text first, then by SHA-256 of its UTF-8."""
        from hashlib import sha256

        kept: list[int] = []
        ranked = sorted(
            range(len(self.texts)), key=lambda i: (-len(self.texts[i]), sha256(self.texts[i].encode()).digest())
        )
        for number in ranked:
            alike = (self.similarities[min(number, other), max(number, other)] for other in kept)
            if not any(float(similarity) >= threshold for similarity in alike):
                kept.append(number)
        return set(range(len(self.texts))) - set(kept)


def labelled_families(
    sources: Iterable[str], *, ngram: int = 5, threshold: float = 0.8, seed: int = 0
) -> Iterator[Family]:
    """Families of every kind in turn, as long as the sources last.

    The same sources (ASCII; others are left out) and seed give the same families.
    """
    rng = random.Random(seed)  # noqa: S311 (an experiment, no secret)
    maker = _Maker(bases=_bases(sources, ngram, rng), ngram=ngram, threshold=threshold, rng=rng)
    makers = _makers(maker)
    number = 0
    while True:
        try:
            family = makers[number % len(makers)]()
        except StopIteration:
            return
        if _as_counted(family, ngram):
            yield family
        number += 1


def _as_counted(family: Family, ngram: int) -> bool:
    """Whether chance left the similarities as they were counted."""
    sets = [set(_grams(_WORD.findall(text), ngram)) for text in family.texts]
    return all(
        Fraction(len(sets[i] & sets[j]), len(sets[i] | sets[j])) == similarity
        for (i, j), similarity in family.similarities.items()
    )


def _makers(maker: _Maker) -> list[Callable[[], Family]]:
    edits = [lambda kind=kind: maker.pair(kind) for kind in ("substituted", "inserted", "deleted", "cut", "headed")]
    return [*edits, maker.moved, maker.restyled, *edits, maker.template, maker.boilerplate]


# ----------------------------------------------------------------------------------------------------------------------
# Base texts


def _bases(sources: Iterable[str], ngram: int, rng: random.Random) -> Iterator[list[Word]]:
    """Texts of 60 to 500 words in which, all together, no word n-gram comes twice."""
    seen: set[int] = set()
    for source in sources:
        if not source.isascii():
            continue
        wanted = rng.randint(_SHORTEST, _LONGEST)
        words: list[Word] = []
        for line in source.splitlines():
            more = _words_of(line)
            grams = _grams([word for _, word in [*words[max(0, len(words) - ngram + 1) :], *more]], ngram)
            if more and len(set(grams)) == len(grams) and seen.isdisjoint(grams):
                seen.update(grams)
                words += more
            if len(words) >= wanted:
                yield words
                wanted, words = rng.randint(_SHORTEST, _LONGEST), []
        if len(words) >= _SHORTEST:
            yield words


def _words_of(line: str) -> list[Word]:
    words: list[Word] = []
    end = 0
    for found in _WORD.finditer(line):
        words.append(("\n" + line[: found.start()] if not words else line[end : found.start()], found[0]))
        end = found.end()
    return words


def _grams(words: Sequence[str], ngram: int) -> list[int]:
    lowered = [word.lower() for word in words]
    return [hash(tuple(lowered[start : start + ngram])) for start in range(max(0, len(lowered) - ngram + 1))]


def _text(words: Sequence[Word]) -> str:
    return "".join(before + word for before, word in words).strip()


# ----------------------------------------------------------------------------------------------------------------------
# Edits


@final
@dataclass(slots=True, kw_only=True)
class _Maker:
    """Makes families of base texts. Below, s is the number of shingles of the base and n their length in words."""

    bases: Iterator[list[Word]]
    ngram: int
    threshold: float
    rng: random.Random
    fresh: int = 0

    def pair(self, kind: str) -> Family:
        """A base and an edited copy, above, below or exactly at the threshold."""
        words = next(self.bases)
        edit = {
            "substituted": _Edit(shared=-self.ngram, union=self.ngram, spread=self.ngram),
            "inserted": _Edit(shared=1 - self.ngram, union=self.ngram, spread=self.ngram),
            "deleted": _Edit(shared=-self.ngram, union=self.ngram - 1, spread=2 * self.ngram),
            "cut": _Edit(shared=-1, union=0, spread=0),
            "headed": _Edit(shared=0, union=1, spread=0),
        }[kind]
        words, count = self._planned(words, edit)
        return self._family(kind, [words, self._edited(kind, words, count)], edit.similarity(self._size(words), count))

    def _edited(self, kind: str, words: list[Word], count: int) -> list[Word]:
        if kind == "cut":
            return words[: len(words) - count]
        if kind == "headed":
            header = [*_HEADER, *(self._word() for _ in range(max(0, count - len(_HEADER))))][:count]
            return [*((" ", word) for word in header), ("\n\n", words[0][1]), *words[1:]]
        copy: list[Word] = []
        places = set(self._places(len(words), count, 2 * self.ngram if kind == "deleted" else self.ngram))
        for place, (before, word) in enumerate(words):
            if place not in places:
                copy.append((before, word))
            elif kind == "substituted":
                copy.append((before, self._word()))
            elif kind == "inserted":
                copy += [(before, self._word()), (" ", word)]
        return copy

    def moved(self) -> Family:
        """A base, and the same with one of its passages elsewhere: three seams, each of n - 1 shingles."""
        words = next(self.bases)
        first, second, third = sorted(self._places(len(words), 3, 2 * self.ngram))
        copy = [*words[:first], *words[second:third], *words[first:second], *words[third:]]
        size, lost = self._size(words), 3 * (self.ngram - 1)
        return self._family("moved", [words, copy], Fraction(size - lost, size + lost))

    def restyled(self) -> Family:
        """A base and copies that differ in case, white space and punctuation alone."""
        words = next(self.bases)
        copies = [
            words,
            [(before, word.upper()) for before, word in words],
            [(re.sub(r"\s+", "  ", before), word) for before, word in words],
            [(f",{before}" if place % 7 == 3 else before, word) for place, (before, word) in enumerate(words)],
            [(" ", word.title()) for _, word in words],
        ]
        return self._family("restyled", copies, Fraction(1))

    def template(self) -> Family:
        """Forms with other words filled in at the same places: alike, but below the threshold."""
        edit = _Edit(shared=-self.ngram, union=self.ngram, spread=self.ngram)
        words = next(self.bases)
        target = self._scaled(self.rng.choice(BELOW))
        size = self._size(words)
        count = min(edit.count_below(size, target), self._room(len(words), edit.spread))
        places = set(self._places(len(words), count, edit.spread))
        forms = [
            [(before, self._word() if place in places else word) for place, (before, word) in enumerate(words)]
            for _ in range(4)
        ]
        return self._family("template", forms, edit.similarity(size, count))

    def boilerplate(self) -> Family:
        """Different texts under one long notice."""
        notice, bodies = next(self.bases), [next(self.bases) for _ in range(3)]
        texts = [[*notice, *body] for body in bodies]
        shared = self._size(notice)
        similarities = {
            (i, j): Fraction(shared, self._size(texts[i]) + self._size(texts[j]) - shared)
            for i, j in combinations(range(3), 2)
        }
        return Family(kind="boilerplate", texts=tuple(map(_text, texts)), similarities=similarities)

    # -- helpers

    def _planned(self, words: list[Word], edit: _Edit) -> tuple[list[Word], int]:
        """The base, perhaps a little shorter, and how many edits it gets."""
        draw = self.rng.random()
        if draw < 1 / 3:
            # Lengths at which the threshold can be met exactly come again after at most a few hundred words.
            for length in range(len(words), _SHORTEST - 1, -1):
                size = length - self.ngram + 1
                count = edit.count(size, self.threshold)
                if (
                    0 < count <= self._room(length, edit.spread)
                    and float(edit.similarity(size, count)) == self.threshold
                ):
                    return words[:length], count
        target = self._scaled(self.rng.choice(ABOVE if draw < 2 / 3 else BELOW))
        return words, max(1, min(edit.count(self._size(words), target), self._room(len(words), edit.spread)))

    def _scaled(self, target: float) -> float:
        """A similarity meant for a threshold of 0.8, as far from ours."""
        if target > 0.8:
            return 1 - (1 - target) * (1 - self.threshold) / 0.2
        return target * self.threshold / 0.8

    def _size(self, words: Sequence[Word]) -> int:
        return len(words) - self.ngram + 1

    def _room(self, length: int, spread: int) -> int:
        """How many places there are for edits that do not touch each other's shingles, or the ends."""
        return length if spread == 0 else max(0, (length - 2 * self.ngram) // spread)

    def _places(self, length: int, count: int, spread: int) -> list[int]:
        """Places at least `spread` words apart, and n from the ends."""
        slack = length - 2 * self.ngram - (count - 1) * spread - 1
        offsets = sorted(self.rng.randint(0, max(0, slack)) for _ in range(count))
        return [self.ngram + number * spread + offset for number, offset in enumerate(offsets)]

    def _word(self) -> str:
        """A word that no text has."""
        self.fresh += 1
        letters = "".join("bdfghklmnprstvwz"[int(digit, 16)] + "o" for digit in f"{self.fresh:x}")
        return f"qx{letters}"

    def _family(self, kind: str, members: Sequence[list[Word]], similarity: Fraction) -> Family:
        pairs = dict.fromkeys(combinations(range(len(members)), 2), similarity)
        return Family(kind=kind, texts=tuple(map(_text, members)), similarities=pairs)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """What one edit does to the numbers of shingles that both texts have, and that either has."""

    shared: int
    union: int
    spread: int
    """Words between two edits at least; 0 where they are no places in the text."""

    def similarity(self, size: int, count: int) -> Fraction:
        """Jaccard similarity after so many edits of a text of so many shingles."""
        return Fraction(size + count * self.shared, size + count * self.union)

    def count(self, size: int, target: float) -> int:
        """How many edits come nearest to a similarity."""
        return round(size * (1 - target) / (target * self.union - self.shared))

    def count_below(self, size: int, target: float) -> int:
        """How many edits bring it to the similarity or just below."""
        count = max(1, self.count(size, target))
        return count if self.similarity(size, count) <= target else count + 1
