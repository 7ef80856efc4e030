"""How often each token occurs, and the tokens of a split as a stream whose hashes are checked on the way."""

from __future__ import annotations

import hashlib
from math import exp, log
from typing import TYPE_CHECKING, Any

from vitruvius.data.account.lengths import document_bounds
from vitruvius.data.packing.index import AGAIN
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from vitruvius.data.packing.index import Shard

BLOCK_TOKENS = 1 << 18
"""Tokens that are in memory at a time, but for longer documents: what arithmetic on 64 bits keeps in the cache."""
RANKS_PER_DECADE = 20
"""Points of the curve of frequency over rank, and of the line that is laid through it."""
RARE = 100
"""A token that is seen less often than this in training hardly gets an embedding."""
MOST_SHOWN = 25


def token_blocks(shard: Shard, *, dtype: str, vocab_size: int) -> Iterator[np.ndarray]:
    """The tokens of a shard, some at a time, as they lie on disk.

    Raises:
        DataError: the file is missing, of another size or content than the index says, or a token is not below the
            vocabulary size; names the file and the byte offset. A changed content is found at the end.
    """
    import numpy as np

    path, item = shard.tokens_path, int(dtype[-1])
    size, wanted = path.stat().st_size if path.is_file() else None, shard.tokens * item
    if size != wanted:
        what = "the file is missing" if size is None else f"the file has {size:,} bytes, the index says {wanted:,}"
        raise DataError(what, where=str(path), fix=AGAIN)
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(BLOCK_TOKENS * item):
            digest.update(data)
            tokens = np.frombuffer(data, dtype=dtype)
            too_large = np.flatnonzero(tokens >= vocab_size)
            if len(too_large):
                at = (done + int(too_large[0])) * item
                what = (
                    f"token {int(tokens[too_large[0]])} at byte {at:,} is not below the vocabulary size {vocab_size:,}"
                )
                raise DataError(what, where=str(path), fix=AGAIN)
            yield tokens
            done += len(tokens)
    if digest.hexdigest() != shard.sha256:
        raise DataError("the content differs from the index (SHA-256)", where=str(path), fix=AGAIN)


def add_counts(counts: np.ndarray, tokens: np.ndarray) -> None:
    """Count tokens into `counts` (int64 [vocab_size])."""
    import numpy as np

    counts += np.bincount(tokens, minlength=len(counts))


def frequency_summary(counts: np.ndarray, *, token_bytes: Sequence[bytes], eos_id: int) -> dict[str, Any]:
    """What there is to say about how often tokens occur; `counts` int64 [vocab_size], the separator's left out."""
    import numpy as np

    vocab_size = len(counts)
    text = counts.copy()
    text[eos_id] = 0
    order = np.argsort(-text, kind="stable")
    ranked = text[order]
    used, total = int((text > 0).sum()), int(text.sum())
    special = [number for number in range(vocab_size) if number != eos_id and not token_bytes[number]]
    unused = vocab_size - used - 1
    running = np.cumsum(ranked)
    return {
        "vocab_size": vocab_size,
        "text_tokens": total,
        "separators": int(counts[eos_id]),
        "used": used,
        "unused": unused,
        "unused_share": unused / vocab_size,
        "unused_special": sum(1 for number in special if text[number] == 0),
        "rare_below": RARE,
        "rare": int(((text > 0) & (text < RARE)).sum()),
        "entropy_bits": _entropy(ranked[:used], total),
        "tokens_for_half": int(np.searchsorted(running, total / 2)) + 1 if total else 0,
        "zipf": _zipf(ranked[:used]),
        "ranks": [{"rank": int(rank), "count": int(ranked[rank - 1])} for rank in _ranks(used)],
        "most_frequent": [
            {
                "id": int(number),
                "text": token_bytes[int(number)].decode("utf-8", "replace"),
                "bytes_hex": token_bytes[int(number)].hex(),
                "count": int(text[number]),
                "share": int(text[number]) / total,
            }
            for number in order[: min(MOST_SHOWN, used)]
        ],
    }


def _entropy(ranked: np.ndarray, total: int) -> float | None:
    """Of the distribution of single tokens, in bits."""
    import numpy as np

    if not total:
        return None
    shares = ranked / total
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _ranks(used: int) -> list[int]:
    """Ranks from 1 to `used`, equally far apart on a logarithmic axis where there are many."""
    found = {round(10 ** (step / RANKS_PER_DECADE)) for step in range(1 + int(RANKS_PER_DECADE * 8))}
    return sorted({rank for rank in found if rank <= used} | ({used} if used else set()))


def _zipf(ranked: np.ndarray) -> dict[str, Any] | None:
    """The exponent of count ~ rank^-exponent: a least-squares line through the logarithms at log-spaced ranks.

    From rank 10 (the first few are words of their own kind) to the last rank with ten occurrences (further down the
    counts are steps). None where fewer than two such ranks are left.
    """
    last = int((ranked >= 10).sum())
    ranks = [rank for rank in _ranks(last) if rank >= 10]
    if len(ranks) < 2:
        return None
    xs, ys = [log(rank) for rank in ranks], [log(int(ranked[rank - 1])) for rank in ranks]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread_x = sum((x - middle_x) ** 2 for x in xs)
    spread_y = sum((y - middle_y) ** 2 for y in ys)
    both = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    slope = both / spread_x
    return {
        "exponent": -slope,
        "r_squared": both**2 / (spread_x * spread_y) if spread_y else 1.0,
        "from_rank": ranks[0],
        "to_rank": ranks[-1],
        "line_at_rank_1": exp(middle_y - slope * middle_x),
    }


def document_blocks(shard: Shard, *, dtype: str, vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens, lengths of the documents they are) of whole documents, about `BLOCK_TOKENS` at a time.

    A longer document comes as one block of its own length. Raises DataError as `token_blocks` does.
    """
    import numpy as np

    blocks = token_blocks(shard, dtype=dtype, vocab_size=vocab_size)
    held: list[np.ndarray] = []
    have = 0
    for starts, ends in document_bounds(shard):
        first = 0
        while first < len(ends):
            # As many documents as begin within a block of tokens, and one at least.
            stop = max(first + 1, int(np.searchsorted(ends, starts[first] + BLOCK_TOKENS, side="right")))
            due = int(ends[stop - 1] - starts[first])
            while have < due:
                block = next(blocks, None)
                if block is None:
                    what = f"a document ends at token {int(ends[stop - 1]):,}, and the shard has {shard.tokens:,}"
                    raise DataError(what, where=str(shard.starts_path), fix=AGAIN)
                held.append(block)
                have += len(block)
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            yield joined[:due], ends[first:stop] - starts[first:stop]
            held, have = [joined[due:]], len(joined) - due
            first = stop
    for _ in blocks:  # nothing is left but the comparison of the hash
        pass
