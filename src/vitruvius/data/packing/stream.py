"""Shards read through memory maps as one long stream of tokens, of which a reader takes any stretch."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, final

from vitruvius.data.packing.index import AGAIN
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from vitruvius.data.packing.index import Shard

MOST_MAPS = 256
"""Files mapped at a time. A map holds its file open, systems allow about a thousand, and mapping again is quick."""


@final
class Maps:
    """Files as arrays, mapped when they are first asked for; of many, those that were asked for last.

    Several threads may ask at a time.
    """

    __slots__ = ("_known", "_lock")

    def __init__(self) -> None:
        self._known: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path, dtype: str) -> np.ndarray:
        """The file as an array. An array that is still in use stays valid after its map is given up.

        Raises:
            DataError: the file cannot be read, or is empty.
        """
        import numpy as np

        with self._lock:
            found = self._known.get(path)
            if found is not None:
                self._known.move_to_end(path)
                return found
            try:
                found = np.asarray(np.memmap(path, dtype=dtype, mode="r"))
            except (OSError, ValueError) as error:
                raise DataError(f"the file cannot be read: {error}", where=str(path), fix=AGAIN) from None
            self._known[path] = found
            if len(self._known) > MOST_MAPS:
                self._known.popitem(last=False)
            return found


@final
class TokenStream:
    """Shards one after another. Positions count tokens of the stream, documents are numbered from 0."""

    __slots__ = ("_first_documents", "_first_tokens", "_maps", "documents", "dtype", "shards", "tokens", "vocab_size")

    def __init__(self, shards: Sequence[Shard], *, dtype: str, vocab_size: int, maps: Maps | None = None) -> None:
        self.shards = tuple(shards)
        self.dtype = dtype
        """numpy type of a token on disk."""
        self.vocab_size = vocab_size
        """Ids are below this."""
        self._maps = maps or Maps()
        self._first_tokens = list(itertools.accumulate((shard.tokens for shard in shards), initial=0))
        self._first_documents = list(itertools.accumulate((shard.documents for shard in shards), initial=0))
        self.tokens = self._first_tokens[-1]
        """Tokens, separators included."""
        self.documents = self._first_documents[-1]
        """Documents."""

    @property
    def item_bytes(self) -> int:
        """Bytes of a token on disk."""
        return int(self.dtype[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop`, across shards: int64 [stop - start].

        Raises:
            DataError: one of them is not below the vocabulary size; names the file and the byte offset.
        """
        import numpy as np

        assert 0 <= start <= stop <= self.tokens
        out = np.empty(stop - start, dtype=np.int64)
        for number, begin, end in self._stretches(self._first_tokens, start, stop):
            tokens = self.tokens_of(number)[begin:end]
            self.refuse_large(self.shards[number], tokens, begin)
            place = self._first_tokens[number] + begin - start
            out[place : place + len(tokens)] = tokens
        return out

    def documents_at(self, start: int, stop: int) -> np.ndarray:
        """Number of the document that each of the tokens `start` to `stop` belongs to: int64 [stop - start].

        Raises:
            DataError: the document starts there are out of order; names the file and the byte offset.
        """
        import numpy as np

        assert 0 <= start <= stop <= self.tokens
        out = np.empty(stop - start, dtype=np.int64)
        for number, begin, end in self._stretches(self._first_tokens, start, stop):
            starts = self.starts_of(number)
            low = int(np.searchsorted(starts, begin, side="right")) - 1
            high = int(np.searchsorted(starts, end - 1, side="right")) - 1
            edges = np.concatenate([[begin], starts[low + 1 : high + 1], [end]])
            self._refuse_disorder(number, edges, max(low, 0))
            place = self._first_tokens[number] + begin - start
            documents = np.arange(low, high + 1, dtype=np.int64) + self._first_documents[number]
            out[place : place + end - begin] = np.repeat(documents, np.diff(edges))
        return out

    def locate(self, place: int) -> tuple[Shard, int]:
        """The shard that holds a token, and at which byte of its `.bin` file."""
        ((number, begin, _),) = self._stretches(self._first_tokens, place, place + 1)
        return self.shards[number], begin * self.item_bytes

    def place_of(self, document: int) -> tuple[Shard, int]:
        """The shard that holds a document, and which of the shard's documents it is, from 0."""
        number = bisect_right(self._first_documents, document) - 1
        return self.shards[number], document - self._first_documents[number]

    def document_of(self, place: int) -> tuple[int, int, int]:
        """The document that a token belongs to: its number, where it starts and where it ends.

        Raises:
            DataError: the document starts there are out of order; names the file and the byte offset.
        """
        import numpy as np

        assert 0 <= place < self.tokens
        ((number, begin, _),) = self._stretches(self._first_tokens, place, place + 1)
        starts, before = self.starts_of(number), self._first_tokens[number]
        inner = int(np.searchsorted(starts, begin, side="right")) - 1
        # In disorder a search ends anywhere.
        inner = min(max(inner, 0), len(starts) - 2)
        self._refuse_disorder(number, np.array([starts[inner], begin + 1]), inner)
        self._refuse_disorder(number, np.array([begin, starts[inner + 1]]), inner)
        return self._first_documents[number] + inner, before + int(starts[inner]), before + int(starts[inner + 1])

    def starts(self, first: int, stop: int) -> np.ndarray:
        """Where the documents `first` to `stop` start, and at last where they end: int64 [stop - first + 1].

        Raises:
            DataError: one of them is out of order; names the file and the byte offset.
        """
        import numpy as np

        assert 0 <= first <= stop <= self.documents
        out = np.empty(stop - first + 1, dtype=np.int64)
        out[-1] = self.tokens
        for number, begin, end in self._stretches(self._first_documents, first, stop):
            # One more than there are documents: the end of the last one.
            place = self._first_documents[number] + begin - first
            inner = self.starts_of(number)[begin : end + 1]
            self._refuse_disorder(number, inner, begin)
            out[place : place + end - begin + 1] = inner + self._first_tokens[number]
        if first == stop and first < self.documents:
            number = bisect_right(self._first_documents, first) - 1
            out[0] = self.starts_of(number)[first - self._first_documents[number]] + self._first_tokens[number]
        return out

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, its separator included: int64."""
        start, stop = self.starts(number, number + 1).tolist()
        return self.read(start, stop)

    def tokens_of(self, number: int) -> np.ndarray:
        """The tokens of a shard, mapped."""
        return self._maps.of(self.shards[number].tokens_path, self.dtype)

    def starts_of(self, number: int) -> np.ndarray:
        """Where documents start in a shard, and at last its length, mapped.

        Raises:
            DataError: it does not start at 0 or does not end with the shard.
        """
        starts = self._maps.of(self.shards[number].starts_path, "<i8")
        for place, due in ((0, 0), (-1, self.shards[number].tokens)):
            if int(starts[place]) != due:
                raise out_of_order(self.shards[number], place % len(starts))
        return starts

    def refuse_large(self, shard: Shard, tokens: np.ndarray, first: int) -> None:
        """Raise DataError where one of the shard's tokens from `first` on is not below the vocabulary size."""
        if len(tokens) and int(tokens.max()) >= self.vocab_size:
            place = int((tokens >= self.vocab_size).argmax())
            at_byte = (first + place) * self.item_bytes
            raise DataError(
                f"token {int(tokens[place])} at byte {at_byte:,} is not below the vocabulary size {self.vocab_size:,}",
                where=str(shard.tokens_path),
                fix=AGAIN,
            )

    def _refuse_disorder(self, number: int, edges: np.ndarray, first: int) -> None:
        """Raise DataError where edges of documents in a shard, of which `first` is the first one's, do not rise."""
        import numpy as np

        wrong = np.flatnonzero(edges[1:] <= edges[:-1])
        if len(wrong):
            raise out_of_order(self.shards[number], first + int(wrong[0]) + 1)

    @staticmethod
    def _stretches(firsts: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, begin, end) within shards of what `start` to `stop` covers; `firsts` is where each shard begins."""
        number = bisect_right(firsts, start) - 1
        while start < stop:
            end = min(stop, firsts[number + 1])
            if end > start:
                yield number, start - firsts[number], end - firsts[number]
                start = end
            number += 1


def out_of_order(shard: Shard, place: int) -> DataError:
    """What to raise where a document start of a shard cannot be right."""
    return DataError(f"document start at byte {place * 8:,} is out of order", where=str(shard.starts_path), fix=AGAIN)
