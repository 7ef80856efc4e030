"""How much of the validation split the training split has shown already: equal documents, and n-grams in common.

Documents and n-grams of tokens are compared by 64-bit hashes. What is kept grows with the validation split up to a
limit, beyond which a part of its documents, drawn by their number, stands for all of them.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.account.tokens import document_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from vitruvius.data.packing.index import Shard

MOST_NGRAMS = 1 << 22
"""N-grams of validation that are kept; more are sampled."""
NGRAM_BYTES = 65
"""Bytes of text that an n-gram should span: 13 words, as in Brown et al. 2020 (arXiv:2005.14165), appendix C."""
SHARES = 10
"""Bins of the share of a document's n-grams."""
MOST_SHOWN = 10

_TABLE_BITS = 25
_BASE = 0x9E3779B97F4A7C15
_PLACE = 0xD1B54A32D192ED03


def default_ngram(bytes_per_token: float | None) -> int:
    """Tokens that span about `NGRAM_BYTES` bytes of text, 8 at least."""
    return max(8, round(NGRAM_BYTES / bytes_per_token)) if bytes_per_token else 13


@final
class Overlap:
    """What is known of the validation split, held against one block of training documents after another."""

    def __init__(self, validation: Sequence[Shard], *, dtype: str, vocab_size: int, ngram: int) -> None:
        """Read the shards of the validation split.

        Raises:
            DataError: it is damaged.
        """
        import numpy as np

        self._validation = validation
        self._tokens: dict[str, Any] = {"dtype": dtype, "vocab_size": vocab_size}
        self._ngram = ngram
        self._rate = min(1.0, MOST_NGRAMS / max(1, sum(shard.tokens for shard in validation)))
        grams: list[np.ndarray] = []
        documents: list[np.ndarray] = []
        for tokens, lengths, _ in self._drawn():
            grams.append(_gram_hashes(tokens, lengths, ngram)[0])
            documents.append(_document_hashes(tokens, lengths))
        none = np.empty(0, dtype=np.uint64)
        self._grams = np.unique(np.concatenate([none, *grams]))
        self._documents = np.unique(np.concatenate([none, *documents]))
        self._found = np.zeros(len(self._grams), dtype=np.bool_)
        self._equal = np.zeros(len(self._documents), dtype=np.bool_)
        self._sieve = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        self._sieve[_shortened(self._grams)] = True

    def see(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Look at documents of the training split."""
        _mark(self._documents, self._equal, _document_hashes(tokens, lengths))
        hashes, _ = _gram_hashes(tokens, lengths, self._ngram)
        _mark(self._grams, self._found, hashes[self._sieve[_shortened(hashes)]])

    def summary(self, *, bytes_per_token: float | None) -> dict[str, Any]:
        """What was found; reads the validation split again."""
        shares, worst = _Shares(), _Worst()
        examined = equal = 0
        for tokens, lengths, numbers in self._drawn():
            examined += len(lengths)
            equal += int(self._equal[_places(self._documents, _document_hashes(tokens, lengths))].sum())
            hashes, document = _gram_hashes(tokens, lengths, self._ngram)
            seen = self._found[_places(self._grams, hashes)]
            total, hits = _sums(document, seen, len(lengths))
            shares.add(total, hits)
            worst.add(numbers, total, hits)
        return {
            "ngram_tokens": self._ngram,
            "ngram_bytes": None if bytes_per_token is None else self._ngram * bytes_per_token,
            "documents": sum(shard.documents for shard in self._validation),
            "documents_examined": examined,
            "sampled": self._rate < 1,
            "documents_identical_in_train": equal,
            **shares.summary(),
            "worst": worst.rows(),
        }

    def _drawn(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(tokens, lengths, numbers in the split) of the documents that are examined."""
        import numpy as np

        first = 0
        for shard in self._validation:
            for tokens, lengths in document_blocks(shard, **self._tokens):
                numbers = np.arange(first, first + len(lengths), dtype=np.int64)
                first += len(lengths)
                if self._rate < 1:
                    drawn = _mixed(numbers.astype(np.uint64)) < np.uint64(int(self._rate * 2**64))
                    tokens = tokens[np.repeat(drawn, lengths)]  # noqa: PLW2901
                    numbers, lengths = numbers[drawn], lengths[drawn]  # noqa: PLW2901
                if len(lengths):
                    yield tokens, lengths, numbers


@final
class _Shares:
    """Documents by the share of their n-grams that training has seen."""

    def __init__(self) -> None:
        self._bins = [0] * SHARES
        self._none = self._all = self._short = self._grams = self._hits = 0

    def add(self, total: np.ndarray, hits: np.ndarray) -> None:
        import numpy as np

        self._short += int((total == 0).sum())
        self._grams += int(total.sum())
        self._hits += int(hits.sum())
        long = total > 0
        self._none += int((long & (hits == 0)).sum())
        self._all += int((long & (hits == total)).sum())
        # Whole numbers, so that a half is a half: bin k holds the shares from k/10 to below (k+1)/10, the last 1 too.
        places = np.minimum(SHARES - 1, hits[long] * SHARES // total[long])
        for place, count in enumerate(np.bincount(places, minlength=SHARES)):
            self._bins[place] += int(count)

    def summary(self) -> dict[str, Any]:
        return {
            "documents_too_short": self._short,
            "documents_without_overlap": self._none,
            "documents_covered": self._all,
            "ngrams": self._grams,
            "ngrams_in_train": self._hits,
            "ngrams_in_train_share": self._hits / self._grams if self._grams else None,
            "documents_by_share": [
                {"from": place / SHARES, "to": (place + 1) / SHARES, "documents": count}
                for place, count in enumerate(self._bins)
            ],
        }


@final
class _Worst:
    """The documents with the largest share, the longer and then the earlier first where they are equal."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int]] = []

    def add(self, numbers: np.ndarray, total: np.ndarray, hits: np.ndarray) -> None:
        import numpy as np

        some = np.flatnonzero(hits)
        order = np.lexsort((numbers[some], -total[some], -(hits[some] / total[some])))
        for place in some[order[:MOST_SHOWN]]:
            row = (float(hits[place] / total[place]), int(total[place]), -int(numbers[place]))
            if len(self._heap) < MOST_SHOWN:
                heapq.heappush(self._heap, row)
            else:
                heapq.heappushpop(self._heap, row)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"document": -number, "id": None, "share": share, "ngrams": total}
            for share, total, number in sorted(self._heap, reverse=True)
        ]


# ------------------------------------------------------------------------------------------------------------- hashes


def _gram_hashes(tokens: np.ndarray, lengths: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each n-gram that lies within a document, without its separator, and which document that is."""
    import numpy as np

    ends = np.cumsum(lengths)
    count = len(tokens) - ngram + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)[:count]
    whole = np.arange(ngram, count + ngram, dtype=np.int64) < ends[document]
    return _mixed(_window_sums(_mixed(tokens.astype(np.uint64)), ngram))[whole], document[whole]


def _window_sums(values: np.ndarray, width: int) -> np.ndarray:
    """The polynomial in `_BASE`, modulo 2^64, of each window of `width` values, put together from windows of powers of
    two.
    """
    import numpy as np

    power, span, base = values, 1, _BASE
    made, covered = None, 0
    remaining, count = width, len(values) - width + 1
    while True:
        if remaining & 1:
            part = power[covered : covered + count]
            made = part if made is None else made * np.uint64(base) + part
            covered += span
        remaining >>= 1
        if not remaining:
            assert made is not None
            return made
        power = power[: len(power) - span] * np.uint64(base) + power[span:]
        base = base * base % 2**64
        span *= 2


def _document_hashes(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A hash of the tokens and their places, for each document."""
    import numpy as np

    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    places = np.arange(len(tokens), dtype=np.int64) - np.repeat(starts, lengths)
    mixed = _mixed(_mixed(tokens.astype(np.uint64)) + places.astype(np.uint64) * np.uint64(_PLACE))
    return np.add.reduceat(mixed, starts)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 of each number: every output bit depends on every input bit."""
    import numpy as np

    numbers = numbers + np.uint64(_BASE)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _shortened(hashes: np.ndarray) -> np.ndarray:
    import numpy as np

    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)


def _places(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted`, all of which are there, stands in `ordered`."""
    import numpy as np

    return np.searchsorted(ordered, wanted)


def _mark(ordered: np.ndarray, marks: np.ndarray, seen: np.ndarray) -> None:
    """Set the marks of those of `ordered` that are among `seen`."""
    import numpy as np

    if len(ordered) == 0 or len(seen) == 0:
        return
    places = np.minimum(np.searchsorted(ordered, seen), len(ordered) - 1)
    marks[places[ordered[places] == seen]] = True


def _sums(document: np.ndarray, seen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n-grams, n-grams seen) of each document."""
    import numpy as np

    return np.bincount(document, minlength=count), np.bincount(document[seen], minlength=count)
