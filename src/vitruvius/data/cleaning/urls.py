"""Which places on the web documents may come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

from vitruvius.data.cleaning.hosts import Url as Parts
from vitruvius.data.cleaning.hosts import domains_of, parsed
from vitruvius.data.cleaning.measuring import at_most
from vitruvius.data.cleaning.settings import Words, all_words, setting
from vitruvius.data.cleaning.step import Measure, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document

_NOT_WORD: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Url(Rule):
    """Documents from places that are malformed, blocked, or named by unwanted words are dropped.

    A domain blocks its subdomains: an entry matches where it is the host or what follows one of its dots, after user,
    port, case, a last dot, `%` escapes and IDNA are seen through. Lists are FineWeb's kinds, and none is built in.
    """

    kind: ClassVar[str] = "url"
    source: ClassVar[str] = "Penedo et al. 2023 (RefinedWeb, arXiv:2306.01116), section G.1; datatrove's URLFilter"
    reasons: ClassVar[Mapping[str, str]] = {
        "url_missing": "it has no URL",
        "url_malformed": "its URL is none",
        "url_scheme": "its URL has another scheme than the allowed ones",
        "url_address": "its host is an IP address",
        "url_labels": "its host has too many labels",
        "url_domain": "its domain is on the list",
        "url_listed": "its URL is on the list",
        "url_pattern": "its URL matches a pattern",
        "url_word": "a word of its URL is on the list",
        "url_part": "its URL contains a string of the list",
        "url_soft_words": "too many words of its URL are on the list",
    }

    required: Literal["url", "nothing"] = "nothing"
    """`url`: documents without one are dropped."""
    schemes: tuple[str, ...] = setting(("http", "https"), form="[a-z][a-z0-9+.-]*")
    """Allowed schemes."""
    addresses: Literal["drop", "keep"] = "drop"
    """What becomes of documents whose host is an IP address."""
    most_labels: int | None = setting(None, least=1)
    """Labels of the host: `www.example.com` has three."""
    domains: Words = ()
    """Blocked domains with all that is under them."""
    urls: Words = ()
    """Blocked URLs, one by one; the spelling of scheme and host does not matter, a `/` at the end does not either."""
    patterns: Words = ()
    """Blocked patterns of host and path, in which `*` is any run of characters: `*.example.com/forum/*`."""
    words: Words = ()
    """A URL with one of these words between other characters than letters and digits is dropped."""
    parts: Words = ()
    """A URL that contains one of these, other characters than letters and digits left out, is dropped."""
    soft_words: Words = ()
    """Words of which a URL may have some."""
    most_soft_words: int = setting(1, least=0)
    """How many different ones."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """Up to ten looks; a document without URL passes, unless one is required.

        Raises:
            DataError: a file of a list is missing or has changed.
        """
        if document.url is None:
            if self.required == "url":
                yield _is("url_missing", "none", "present", passed=False)
            return
        url = parsed(document.url)
        if isinstance(url, str):
            yield _is("url_malformed", url, "well formed", passed=False)
            return
        yield _is("url_malformed", "well formed", "well formed", passed=True)
        yield Measure(
            reason="url_scheme",
            value=url.scheme,
            relation="one of",
            limit=", ".join(self.schemes),
            passed=url.scheme in self.schemes,
        )
        if self.addresses == "drop":
            yield _is("url_address", url.host if url.is_address else "a name", "a name", passed=not url.is_address)
        if self.most_labels is not None and not url.is_address:
            yield at_most("url_labels", url.host.count(".") + 1, self.most_labels)
        yield from self._in_lists(url)

    def _in_lists(self, url: Parts) -> Iterator[Measure]:
        lists = _lists(self.domains, self.urls, self.patterns, self.words, self.parts, self.soft_words)
        whole = (url.host + url.rest).lower()
        words = set(_NOT_WORD.split(whole))
        if lists.domains:
            names = [url.host] if url.is_address else domains_of(url.host)
            yield _none_of("url_domain", next((name for name in names if name in lists.domains), ""), "domains")
        if lists.urls:
            yield _none_of("url_listed", _same(url) if _same(url) in lists.urls else "", "urls")
        if lists.patterns:
            found = next((pattern for pattern, parts in lists.patterns if _matches(parts, whole)), "")
            yield _none_of("url_pattern", found, "patterns")
        if lists.words:
            yield _none_of("url_word", min(words & lists.words, default=""), "words")
        if lists.parts:
            bare = _NOT_WORD.sub("", whole)
            yield _none_of("url_part", next((part for part in lists.parts if part in bare), ""), "parts")
        if lists.soft_words:
            yield at_most("url_soft_words", len(words & lists.soft_words), self.most_soft_words)


def _is(reason: str, value: str, limit: str, *, passed: bool) -> Measure:
    return Measure(reason=reason, value=value, relation="is", limit=limit, passed=passed)


def _none_of(reason: str, found: str, name: str) -> Measure:
    return Measure(reason=reason, value=found, relation="none of", limit=name, passed=not found)


class _Lists(NamedTuple):
    """The lists of a step, ready to be asked."""

    domains: frozenset[str]
    urls: frozenset[str]
    patterns: tuple[tuple[str, tuple[str, ...]], ...]
    words: frozenset[str]
    parts: tuple[str, ...]
    soft_words: frozenset[str]


@lru_cache(maxsize=16)
def _lists(domains: Words, urls: Words, patterns: Words, words: Words, parts: Words, soft_words: Words) -> _Lists:
    listed = (parsed(url) for url in all_words(urls))
    return _Lists(
        domains=frozenset(_domain(domain) for domain in all_words(domains)) - {""},
        urls=frozenset(_same(url) for url in listed if not isinstance(url, str)),
        patterns=tuple((pattern, tuple(pattern.lower().split("*"))) for pattern in all_words(patterns)),
        words=frozenset(map(_bare, all_words(words))) - {""},
        parts=tuple(part for part in map(_bare, all_words(parts)) if part),
        soft_words=frozenset(map(_bare, all_words(soft_words))) - {""},
    )


def _domain(entry: str) -> str:
    """An entry of a list of domains as hosts are compared: `*.Example.com.` is `example.com`."""
    bare = entry.strip().removeprefix("*").removeprefix(".")
    url = parsed(bare if "://" in bare else f"http://{bare}")
    return "" if isinstance(url, str) else url.host


def _bare(word: str) -> str:
    return _NOT_WORD.sub("", word.lower())


def _same(url: Parts) -> str:
    """What URLs that mean the same have in common."""
    return f"{url.host}{url.rest.partition('#')[0].removesuffix('/')}"


def _matches(parts: tuple[str, ...], text: str) -> bool:
    """Whether a text has the parts of a pattern in order, in time linear in both: the first place of each will do."""
    first, *middle = parts
    if not middle:
        return text == first
    *middle, last = middle
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
