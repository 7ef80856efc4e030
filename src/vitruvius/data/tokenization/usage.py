"""How a tokenizer does on texts: bytes per token, tokens per word, what it loses, the words it cuts worst."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from vitruvius.data.tokenization.samples import Domain
    from vitruvius.data.tokenization.tokenizer import Tokenizer

_LISTED = 20
_LONGEST_WORD = 64
"""Characters; longer ones are data, not words, and are left out of the list of words."""
_MOST_WORDS = 200_000
"""Different words that are looked at for the list, the most frequent ones."""


def domain_facts(domain: Domain) -> dict[str, Any]:
    """The size of a domain, the same for every tokenizer."""
    return {
        "name": domain.name,
        "source": domain.source,
        "whole": domain.whole,
        "documents": len(domain.texts),
        "characters": sum(map(len, domain.texts)),
        "bytes": sum(len(text.encode()) for text in domain.texts),
        "words": sum(len(text.split()) for text in domain.texts),
    }


def usage_facts(tokenizer: Tokenizer, domains: Sequence[Domain]) -> dict[str, Any]:
    """What becomes of the domains; words are what white space sets apart."""
    import numpy as np

    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    measured: list[dict[str, Any]] = []
    words: Counter[str] = Counter()
    for domain in domains:
        facts = domain_facts(domain)
        used = np.zeros_like(counts)
        failures, first = 0, None
        for number, (text, ids) in enumerate(zip(domain.texts, tokenizer.encode_documents(domain.texts), strict=True)):
            used += np.bincount(ids, minlength=len(used))
            place = difference(text, tokenizer.decode(ids.tolist()))
            if place is not None:
                failures += 1
                first = first or {"document": number, "character": place, "text": text[max(0, place - 20) :][:40]}
            words.update(word for word in text.split() if len(word) <= _LONGEST_WORD)
        tokens = int(used.sum())
        measured.append(
            {
                "name": domain.name,
                "tokens": tokens,
                "bytes_per_token": _ratio(facts["bytes"], tokens),
                "characters_per_token": _ratio(facts["characters"], tokens),
                "tokens_per_word": _ratio(tokens, facts["words"]),
                "unknown_tokens": 0 if tokenizer.unk_id is None else int(used[tokenizer.unk_id]),
                "different_tokens": int(np.count_nonzero(used)),
                "round_trip_failures": failures,
                "first_failure": first,
            }
        )
        counts += used
    return {"domains": measured, "worst_words": worst_words(tokenizer, words), **_unused(tokenizer, counts)}


def difference(text: str, back: str) -> int | None:
    """The first character in which a text came back differently, or None where it came back as it was."""
    if text == back:
        return None
    low, high = 0, min(len(text), len(back))
    while low < high:  # the length of the common start, by halves: comparing slices is fast
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[:middle] == back[:middle] else (low, middle - 1)
    return low


def worst_words(tokenizer: Tokenizer, words: Counter[str]) -> list[dict[str, Any]]:
    """The words that cost most: their uses times the tokens each has beyond one, encoded alone after a space."""
    chosen = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]
    space = "" if tokenizer.pieces.lead else " "  # where encoding puts one before every text, a second would count
    found: list[tuple[int, str, int, list[int]]] = []
    for (word, count), ids in zip(chosen, tokenizer.encode_documents(space + word for word, _ in chosen), strict=True):
        found.append((-count * (len(ids) - 1), word, count, ids.tolist()))
    found.sort(key=lambda each: each[:2])
    return [
        {
            "word": word,
            "count": count,
            "tokens": len(ids),
            "extra_tokens": -extra,
            "pieces": [tokenizer.token_bytes[token].decode("utf-8", "backslashreplace") for token in ids],
        }
        for extra, word, count, ids in found[:_LISTED]
        if extra < 0
    ]


def _unused(tokenizer: Tokenizer, counts: np.ndarray) -> dict[str, Any]:
    ordinary = [token for token, piece in enumerate(tokenizer.token_bytes) if piece]
    unused = [token for token in ordinary if counts[token] == 0]
    total = int(counts.sum())
    digits = [token for token in ordinary if any(0x30 <= byte <= 0x39 for byte in tokenizer.token_bytes[token])]
    most = sorted(ordinary, key=lambda token: (-int(counts[token]), token))[:_LISTED]
    return {
        "tokens": total,
        "unused_count": len(unused),
        "unused_share": _ratio(len(unused), len(ordinary)),
        "unused": [_text(tokenizer, token) for token in unused[:_LISTED]],
        "digit_share": _ratio(int(sum(counts[token] for token in digits)), total),
        "most_used": [{"text": _text(tokenizer, token), "count": int(counts[token])} for token in most],
    }


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")


def _ratio(over: int, under: int) -> float | None:
    return round(over / under, 4) if under else None


def total_of(domains: Iterable[dict[str, Any]], key: str) -> int:
    """The sum of one of the counts over domains."""
    return sum(int(domain[key]) for domain in domains)
