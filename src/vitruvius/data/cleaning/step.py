"""What a cleaning step is: a rule that measures a document, or a rewriting of its text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document

Relation = Literal["at least", "at most", "one of", "none of", "is"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One rule's look at one document."""

    reason: str
    """The reason for which the document is dropped where it does not pass: a key of the step's `reasons`."""
    value: float | str
    """What was measured."""
    relation: Relation
    """How value and limit compare in a document that passes."""
    limit: float | str
    """The rule's threshold."""
    passed: bool
    """Whether the document stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A document after a step that changes text."""

    document: Document
    """With its new text."""
    changes: Mapping[str, int]
    """How many of what were changed (`emails`, `zero_width`, ...); empty when nothing was."""


class Step(ABC):
    """Base of the steps of a recipe: frozen, keyword-only, slotted dataclasses whose fields are the recipe's settings.

    A step is a pure function of the document and its settings: no state, no clock, no randomness, so that any process
    comes to the same end.
    """

    __slots__ = ()
    kind: ClassVar[str]
    """Its name in recipes."""
    source: ClassVar[str]
    """The paper or code that its limits are from."""


class Rule(Step):
    """A step that keeps a document or drops it."""

    __slots__ = ()
    reasons: ClassVar[Mapping[str, str]]
    """Reason -> what it means, for every reason the rule may give."""

    @abstractmethod
    def measures(self, document: Document) -> Iterator[Measure]:
        """Every look of the rule, cheapest first; whoever only wants a verdict stops at the first that fails."""


class Rewriter(Step):
    """A step that changes the text."""

    __slots__ = ()
    counts: ClassVar[Mapping[str, str]]
    """Name of a change -> what it is, for every change it may count."""

    @abstractmethod
    def rewritten(self, document: Document) -> Rewritten:
        """The document with its new text, and what was changed."""
