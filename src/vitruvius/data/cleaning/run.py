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
"""The reason of a document of which a rewriting leaves nothing but white space; one of the harmless reasons."""


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
                document = rewritten.document
                if (nothing := _nothing_left(document)) is not None:
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
                document = rewritten.document
                nothing = _nothing_left(document)
                measures = () if nothing is None else (nothing,)
        passed = all(measure.passed for measure in measures)
        looks.append(
            Look(
                step=step.kind, index=index, measures=measures, changes=changes, passed=passed, document=document
            )
        )
    return looks


def _nothing_left(document: Document) -> Measure | None:
    text = document.text
    if text and not text.isspace():
        return None
    return Measure(reason=EMPTY, value=0, relation="at least", limit=1, passed=False)
