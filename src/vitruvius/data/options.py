"""What `prepare` may be told: everything that changes what it writes, as one value that a job's plan can keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from dataclasses import field as settled
from typing import TYPE_CHECKING, Any, Literal

from vitruvius.data.cleaning.recipe import Recipe, read_recipe, recipe_from_json
from vitruvius.data.packing.index import DEFAULT_SOURCE, SOURCE_NAME
from vitruvius.data.reading.inputs import INPUT_KINDS, InputKind
from vitruvius.data.reading.options import LINE_LIMIT, ReadOptions
from vitruvius.data.tokenization.training import LARGEST_VOCABULARY, SMALLEST_VOCABULARY, Kind
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST_TEXT = 2**31
"""A text has fewer bytes than this: lengths are kept in four."""


_LEAST = f"at least {SMALLEST_VOCABULARY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the corpus with a name: a share of the mixture, and how its files are read and cleaned."""

    name: str
    """How shards, mixtures and reports call it."""
    inputs: tuple[str, ...] = ()
    """Files, folders, corpora."""
    weight: float | None = None
    """Its share of a mixture, relative to the others'; None is the share of its tokens."""
    recipe: Recipe
    """What is done to its documents."""
    kind: InputKind = "auto"
    """How files are read."""
    reading: ReadOptions = settled(default_factory=ReadOptions)
    """What the readers are told."""
    extensions: tuple[str, ...] = (".py",)
    """Suffixes of source files."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: names the field.
        """
        if not SOURCE_NAME.fits(self.name):
            raise UsageError(
                f"{self.name!r} cannot name a source: {SOURCE_NAME.due} is due",
                where="--sources",
                fix="call it web, code, books ...",
            )
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise UsageError(
                f"the weight is {self.weight!r}", where=f"source {self.name}", fix="use a number above 0, such as 0.7"
            )
        if self.kind not in INPUT_KINDS:
            raise UsageError(
                f"the kind is {self.kind!r}", where=f"source {self.name}", fix=f"use one of {', '.join(INPUT_KINDS)}"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the inputs, which the plan has as units."""
        return {
            "name": self.name,
            "weight": self.weight,
            "recipe": self.recipe.as_json(),
            "kind": self.kind,
            "reading": asdict(self.reading),
            "extensions": list(self.extensions),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Source:
        """What `as_json` gave."""
        return cls(
            name=content["name"],
            weight=content["weight"],
            recipe=recipe_from_json(content["recipe"]),
            kind=content["kind"],
            reading=ReadOptions(**content["reading"]),
            extensions=tuple(content["extensions"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """Everything that changes what `prepare` writes.

    `recipe`, `kind`, `field`, `markup`, `extensions` and `document_bytes` are for inputs without a source of their own.
    """

    vocab: int = 8192
    """Largest vocabulary of the tokenizer to train."""
    tokenizer_kind: Kind = "bpe"
    """What kind of tokenizer to train."""
    tokenizer: Path | None = None
    """A tokenizer to use instead: `tokenizer.json`, a folder that holds it, or a GGUF file."""
    eos: str | None = None
    """The separator of a loaded tokenizer; None takes the first known name."""
    max_bad_rate: float = 0.001
    """Stop when a larger share of the documents is bad."""
    held_out: float = 0.05
    """Share of the documents to hold out for validation, chosen by the hash of their text."""
    recipe: Recipe = settled(default_factory=lambda: read_recipe("plain"))
    """What is done to documents, and which duplicates are dropped."""
    kind: InputKind = "auto"
    """How files are read."""
    field: str = "text"
    """Key of the text in a JSON line, column of a table."""
    url_field: str = "url"
    """Key of the address in a JSON line, column of a table."""
    markup: Literal["plain", "html"] = "plain"
    """What the texts of JSON lines and tables are."""
    extensions: tuple[str, ...] = (".py",)
    """Suffixes of source files."""
    document_bytes: int = LINE_LIMIT
    """Longer text files are cut into documents at line ends."""
    line_bytes: int = LINE_LIMIT
    """Longer lines, pages and source files are refused unread."""
    seed: int = 0
    """Another seed holds out other documents."""
    shard_tokens: int = 100_000_000
    """A shard is closed after the document that reaches this many tokens."""
    sources: tuple[Source, ...] = ()
    """Parts of the corpus with names; none makes everything one source."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: names the option.
        """
        limits = (
            (
                self.tokenizer is not None or self.vocab >= SMALLEST_VOCABULARY,
                "--vocab",
                f"at least {SMALLEST_VOCABULARY}",
            ),
            (self.vocab <= LARGEST_VOCABULARY, "--vocab", f"at most {LARGEST_VOCABULARY}"),
            (0 <= self.max_bad_rate <= 1, "--max-bad-rate", "from 0 to 1"),
            (0 <= self.held_out < 1, "--held-out", "from 0 to less than 1"),
            (self.document_bytes >= 1, "--document-bytes", "at least 1"),
            (1 <= self.line_bytes < LARGEST_TEXT, "--line-bytes", f"from 1 to {LARGEST_TEXT - 1}"),
            (self.shard_tokens >= 1, "--shard-tokens", "at least 1"),
        )
        for fine, option, wanted in limits:
            if not fine:
                raise UsageError(
                    f"the value is out of range: it must be {wanted}", where=option, fix=f"use a value {wanted}"
                )
        self._agree()

    def _agree(self) -> None:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two sources are called {name!r}", where="--sources", fix="give each its own name")
        duplicates = {source.name: source.recipe.deduplicate for source in self.sources}
        if len(set(duplicates.values())) > 1:
            raise UsageError(
                f"duplicates are looked for in all of the corpus, and the recipes of {', '.join(duplicates)} disagree",
                where="--sources",
                fix="give their recipes the same `duplicates`",
            )
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            without = next(source.name for source in self.sources if source.weight is None)
            raise UsageError(
                "it has no weight, and others have one", where=f"source {without}", fix="weigh all or none"
            )

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources, or the one that stands for everything."""
        if self.sources:
            return self.sources
        reading = ReadOptions(
            field=self.field,
            url_field=self.url_field,
            markup=self.markup,
            document_bytes=self.document_bytes,
            limit=self.line_bytes,
        )
        return (
            Source(
                name=DEFAULT_SOURCE, recipe=self.recipe, kind=self.kind, reading=reading, extensions=self.extensions
            ),
        )

    def part(self, name: str) -> Source:
        """The source of that name."""
        return next(source for source in self.parts if source.name == name)

    def as_json(self) -> dict[str, Any]:
        """Plain data; of the tokenizer's path only the name, so that equal data have equal settings."""
        content = {name: getattr(self, name) for name in self.__slots__}
        return content | {
            "tokenizer": None if self.tokenizer is None else self.tokenizer.name,
            "recipe": self.recipe.as_json(),
            "extensions": list(self.extensions),
            "sources": [source.as_json() for source in self.sources],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PrepareOptions:
        """What `as_json` gave."""
        from pathlib import Path

        settings: dict[str, Any] = {
            **content,
            "tokenizer": None if content["tokenizer"] is None else Path(content["tokenizer"]),
            "recipe": recipe_from_json(content["recipe"]),
            "extensions": tuple(content["extensions"]),
            "sources": tuple(Source.from_json(source) for source in content["sources"]),
        }
        return cls(**settings)

    def with_rate(self, max_bad_rate: float) -> PrepareOptions:
        """With another limit for bad data, which changes no byte of what is kept."""
        return replace(self, max_bad_rate=max_bad_rate)
