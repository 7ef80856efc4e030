"""A document through a recipe: kept or dropped in one pass, or looked at by every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.data.cleaning.step import Measure, Rewriter, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.cleaning.recipe import Recipe
    from vitruvius.data.document import Document

EMPTY = "empty"
"""The reason of a page of HTML that has no text; one of the harmless reasons, like that of a blank document."""

EMPTIED = "emptied"
EMPTIED_MEANING = "a step of the recipe left nothing but white space of it"
"""The reason of a document of which a rewriting of its text leaves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A document that stays."""

    document: Document
    """With its text as the recipe left it."""
    changes: Mapping[str, int]
    """`KIND.CHANGE` -> how many were made, for what was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A document that goes."""

    measure: Measure
    """The look that it did not pass."""
    step: str
    """Kind of the step."""
    document: Document
    """As it was when it was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one step of a recipe makes of a document."""

    step: str
    """Kind of the step."""
    index: int
    """Its place in the recipe, from 0."""
    measures: tuple[Measure, ...]
    """Of a rule: every look. Of a rewriter: empty, or that it left nothing."""
    changes: Mapping[str, int]
    """Of a rewriter: what was changed."""
    passed: bool
    """Whether the document stays."""
    document: Document
    """After the step."""


def clean(document: Document, recipe: Recipe) -> Kept | Dropped:
    """Take a document through the steps of a recipe, up to the first that drops it."""
    changes: dict[str, int] = {}
    for step in recipe.steps:
        if isinstance(step, Rule):
            for measure in step.measures(document):
                if not measure.passed:
                    return Dropped(measure=measure, step=step.kind, document=document)
        elif isinstance(step, Rewriter):
            rewritten = step.rewritten(document)
            for name, count in rewritten.changes.items():
                key = f"{step.kind}.{name}"
                changes[key] = changes.get(key, 0) + count
            if rewritten.document is not document:
                nothing = _nothing_left(document, rewritten.document)
                document = rewritten.document
                if nothing is not None:
                    return Dropped(measure=nothing, step=step.kind, document=document)
    return Kept(document=document, changes=changes)


def trace(document: Document, recipe: Recipe) -> list[Look]:
    """Every measure and rewriting of every step in order, going on after one that drops the document."""
    looks: list[Look] = []
    for index, step in enumerate(recipe.steps):
        measures: tuple[Measure, ...] = ()
        changes: Mapping[str, int] = {}
        if isinstance(step, Rule):
            measures = tuple(step.measures(document))
        elif isinstance(step, Rewriter):
            rewritten = step.rewritten(document)
            changes = rewritten.changes
            if rewritten.document is not document:
                nothing = _nothing_left(document, rewritten.document)
                document = rewritten.document
                measures = () if nothing is None else (nothing,)
        passed = all(measure.passed for measure in measures)
        looks.append(
            Look(step=step.kind, index=index, measures=measures, changes=changes, passed=passed, document=document)
        )
    return looks


def _nothing_left(before: Document, after: Document) -> Measure | None:
    if after.text and not after.text.isspace():
        return None
    reason = EMPTY if before.markup != after.markup else EMPTIED
    return Measure(reason=reason, value=0, relation="at least", limit=1, passed=False)
