"""What a language model must beat: counting models and a compressor, measured on the same held-out text."""

from __future__ import annotations

import gzip
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.shards import TokenShards

DISCOUNT = 0.75
"""Subtracted from every count of the trigram and bigram; what it frees goes to the shorter context."""


def unigram_bits_per_byte(train: TokenShards, held_out: TokenShards) -> float:
    """Bits per byte of `held_out` under the token frequencies of `train`, each count plus one (Laplace).

    Every token is scored, separators too; the bytes are those of the text.
    """
    import numpy as np

    probabilities = _unigram(train.read(0, train.tokens), train.vocab_size)
    bits = -np.log2(probabilities[held_out.read(0, held_out.tokens)]).sum()
    return float(bits / held_out.text_bytes)


def trigram_bits_per_byte(train: TokenShards, held_out: TokenShards) -> float:
    """Bits per byte of `held_out` under a token trigram of `train`: interpolated absolute discounting, discount 0.75.

    P3(c|ab) = max(n(abc) - D, 0) / n(ab) + D * types(ab) / n(ab) * P2(c|b), P2 likewise over the
    unigram with counts plus one (Chen and Goodman, "An Empirical Study of Smoothing Techniques for
    Language Modeling", 1998, section 2.7). A context never seen passes all to the shorter one. Contexts
    run across documents, as those of packed training do.
    """
    import numpy as np

    vocab = train.vocab_size
    seen, asked = train.read(0, train.tokens), held_out.read(0, held_out.tokens)
    # Two separators stand before the first token, so that every token has a context.
    seen, asked = (np.concatenate([[train.eos_id, train.eos_id], ids]) for ids in (seen, asked))
    probabilities = _unigram(seen, vocab)[asked[2:]]
    for order in (1, 2):
        probabilities = _interpolated(seen, asked, order, vocab, probabilities)
    return float(-np.log2(probabilities).sum() / held_out.text_bytes)


def gzip_bits_per_byte(text: bytes) -> float:
    """Bits per byte of `text` compressed by gzip at level 9, with nothing known beforehand."""
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / max(1, len(text))


def held_out_text(shards: TokenShards) -> bytes:
    """The text of a split, its documents one after the other."""
    return shards.tokenizer().decode_bytes(shards.read(0, shards.tokens).tolist())


def baselines(train: TokenShards, held_out: TokenShards) -> dict[str, float]:
    """Bits per byte of each baseline on `held_out`, and of no model at all (`uniform`), by name."""
    return {
        "uniform": math.log2(train.vocab_size) * held_out.tokens / held_out.text_bytes,
        "unigram": unigram_bits_per_byte(train, held_out),
        "trigram": trigram_bits_per_byte(train, held_out),
        "gzip": gzip_bits_per_byte(held_out_text(held_out)),
    }


def _unigram(tokens: np.ndarray, vocab: int) -> np.ndarray:
    import numpy as np

    counts = np.bincount(tokens, minlength=vocab)
    return (counts + 1) / (counts.sum() + vocab)


def _interpolated(seen: np.ndarray, asked: np.ndarray, order: int, vocab: int, shorter: np.ndarray) -> np.ndarray:
    """P(c | the `order` tokens before) per token of `asked` after the first two; `shorter` is P with one token less."""
    import numpy as np

    contexts, asked_contexts = _contexts(seen, order, vocab), _contexts(asked, order, vocab)
    # Numbering the contexts keeps (context, token) in 64 bits for any vocabulary.
    known, numbers, totals = np.unique(contexts, return_inverse=True, return_counts=True)
    pairs, pair_counts = np.unique(numbers * vocab + seen[2:], return_counts=True)
    types = np.bincount(pairs // vocab, minlength=len(known))

    place, found = _lookup(known, asked_contexts)
    pair_place, pair_found = _lookup(pairs, place * vocab + asked[2:])
    count = np.where(found & pair_found, pair_counts[pair_place], 0)
    total = totals[place]
    freed = DISCOUNT * types[place] / total
    return np.where(found, np.maximum(count - DISCOUNT, 0) / total + freed * shorter, shorter)


def _contexts(tokens: np.ndarray, order: int, vocab: int) -> np.ndarray:
    """One number per token after the first two, for the `order` tokens before it."""
    before = tokens[1:-1]
    return before if order == 1 else tokens[:-2] * vocab + before


def _lookup(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value stands in a sorted table, and whether it is there."""
    import numpy as np

    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return place, table[place] == values
