"""How long documents are: every quantile exact, in memory that grows with the number of different lengths only.

N tokens hold fewer than sqrt(2 N) different lengths, so a table of lengths and how often each occurs is small for any
corpus: a trillion tokens need at most 1.4 million rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.packing.index import AGAIN
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from vitruvius.data.packing.index import Shard

QUANTILES = (10, 50, 100, 250, 500, 750, 900, 950, 990, 999)
"""In thousandths."""
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
"""Lengths that people train with, in tokens."""
THRESHOLDS = CONTEXTS[2:]
BINS_PER_DOUBLING = 2
"""Of the histogram, whose bins are equally wide on a logarithmic axis."""

_STARTS = 1 << 20
"""Starts of documents that are read at a time."""
_PENDING = 1 << 20


@final
class LengthTable:
    """Lengths in tokens, the separator included, and how many documents have each."""

    def __init__(self) -> None:
        import numpy as np

        self._values = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._size = 0

    def add(self, lengths: np.ndarray) -> None:
        """Count documents with these lengths (int64)."""
        import numpy as np

        values, counts = np.unique(lengths, return_counts=True)
        self.add_counted(values, counts)

    def add_counted(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Count `counts` documents for each of `values`."""
        self._pending.append((values, counts))
        self._size += len(values)
        if self._size > _PENDING:
            self._settle()

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(lengths in rising order, documents of each), both int64."""
        if self._pending:
            self._settle()
        return self._values, self._counts

    def _settle(self) -> None:
        import numpy as np

        values = np.concatenate([self._values, *(part for part, _ in self._pending)])
        counts = np.concatenate([self._counts, *(part for _, part in self._pending)])
        self._values, places = np.unique(values, return_inverse=True)
        self._counts = np.zeros(len(self._values), dtype=np.int64)
        np.add.at(self._counts, places, counts)
        self._pending, self._size = [], 0


def summary(table: LengthTable) -> dict[str, Any] | None:
    """What there is to say about the lengths of documents, exactly; None where there are no documents."""
    values, counts = table.table()
    documents = int(counts.sum())
    if documents == 0:
        return None
    tokens = int((values * counts).sum())
    return {
        "documents": documents,
        "tokens": tokens,
        "shortest": int(values[0]),
        "longest": int(values[-1]),
        "mean": tokens / documents,
        "quantiles": {f"{q / 1000:g}": _quantile(values, counts, q) for q in QUANTILES},
        "token_weighted_median": _quantile(values, values * counts, 500),
        "longer_than": [_longer(values, counts, threshold, documents, tokens) for threshold in THRESHOLDS],
        "contexts": [_context(values, counts, context, documents, tokens) for context in CONTEXTS],
        "histogram": _histogram(values, counts),
    }


def _quantile(values: np.ndarray, weights: np.ndarray, thousandths: int) -> int:
    """The smallest length such that at least that share of the weight lies at it or below."""
    import numpy as np

    running = np.cumsum(weights)
    due = -(-thousandths * int(running[-1]) // 1000)
    return int(values[np.searchsorted(running, due, side="left")])


def _longer(values: np.ndarray, counts: np.ndarray, threshold: int, documents: int, tokens: int) -> dict[str, Any]:
    over = values > threshold
    some, their_tokens = int(counts[over].sum()), int((values[over] * counts[over]).sum())
    return {
        "tokens_over": threshold,
        "documents": some,
        "documents_share": some / documents,
        "tokens": their_tokens,
        "tokens_share": their_tokens / tokens,
    }


def _context(values: np.ndarray, counts: np.ndarray, context: int, documents: int, tokens: int) -> dict[str, Any]:
    """What rows of `context` tokens with one document each would cut off, and how much of them would be padding."""
    import numpy as np

    beyond = int((np.maximum(values - context, 0) * counts).sum())
    empty = int((np.maximum(context - values, 0) * counts).sum())
    return {
        "context": context,
        "documents_truncated": int(counts[values > context].sum()),
        "tokens_truncated": beyond,
        "tokens_truncated_share": beyond / tokens,
        "slots_empty": empty,
        "slots_empty_share": empty / (context * documents),
    }


def _histogram(values: np.ndarray, counts: np.ndarray) -> list[dict[str, int]]:
    """Documents and tokens by length, in bins with whole-numbered edges; `above` is exclusive, `up_to` inclusive."""
    import numpy as np

    edges = [0]
    power = 0
    while edges[-1] < values[-1]:
        edge = round(2 ** (power / BINS_PER_DOUBLING))
        power += 1
        if edge > edges[-1]:
            edges.append(edge)
    places = np.searchsorted(np.array(edges[1:], dtype=np.int64), values, side="left")
    documents, tokens = np.zeros(len(edges) - 1, dtype=np.int64), np.zeros(len(edges) - 1, dtype=np.int64)
    np.add.at(documents, places, counts)
    np.add.at(tokens, places, counts * values)
    return [
        {"above": low, "up_to": high, "documents": int(here), "tokens": int(of_them)}
        for low, high, here, of_them in zip(edges, edges[1:], documents, tokens, strict=False)
    ]


@final
class PackedCuts:
    """How many documents lie in more than one window, where the stream of each source is cut every `context` tokens."""

    def __init__(self) -> None:
        self._lengths: dict[str, int] = {}
        self._cut = dict.fromkeys(CONTEXTS, 0)

    def add(self, source: str, starts: np.ndarray, ends: np.ndarray) -> None:
        """Look at documents from `starts` to `ends` of the shard being read."""
        first = self._lengths.get(source, 0)
        for context in CONTEXTS:
            self._cut[context] += int(((starts + first) // context != (ends - 1 + first) // context).sum())

    def end_shard(self, source: str, tokens: int) -> None:
        """Go on to the next shard of the stream."""
        self._lengths[source] = self._lengths.get(source, 0) + tokens

    def counts(self) -> list[dict[str, int]]:
        """For each context: whole windows, documents cut, tokens that no whole window predicts or reads."""
        rows: list[dict[str, int]] = []
        for context, cut in self._cut.items():
            windows = {source: max(0, tokens - 1) // context for source, tokens in self._lengths.items()}
            left = sum(tokens - windows[source] * context for source, tokens in self._lengths.items())
            rows.append(
                {
                    "context": context,
                    "windows": sum(windows.values()),
                    "documents_cut": cut,
                    "tokens_left_out": left,
                }
            )
        return rows


def document_bounds(shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(starts, ends) of the documents of a shard, int64, a million or so at a time.

    Raises:
        DataError: the file is missing, of another size, or its starts do not rise from 0 to the shard's tokens.
    """
    import numpy as np

    path, wanted, digest = shard.starts_path, (shard.documents + 1) * 8, hashlib.sha256()
    size = path.stat().st_size if path.is_file() else None
    if size != wanted:
        what = "the file is missing" if size is None else f"the file has {size:,} bytes, the index says {wanted:,}"
        raise DataError(what, where=str(path), fix=AGAIN)
    last = 0
    with path.open("rb") as file:
        head = file.read(8)
        digest.update(head)
        previous = np.frombuffer(head, dtype="<i8")
        while data := file.read(8 * _STARTS):
            digest.update(data)
            here = np.concatenate([previous, np.frombuffer(data, dtype="<i8")])
            if (last == 0 and here[0] != 0) or (np.diff(here) <= 0).any():
                what = f"the document starts near byte {last * 8:,} are out of order"
                raise DataError(what, where=str(path), fix=AGAIN)
            yield here[:-1], here[1:]
            last += len(here) - 1
            previous = here[-1:]
    if int(previous[0]) != shard.tokens:
        what = f"the last document ends at token {int(previous[0]):,}, and the shard has {shard.tokens:,}"
        raise DataError(what, where=str(path), fix=AGAIN)
    if digest.hexdigest() != shard.starts_sha256:
        raise DataError("the content differs from the index (SHA-256)", where=str(path), fix=AGAIN)
