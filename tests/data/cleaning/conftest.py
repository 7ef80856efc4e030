"""Documents for the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vitruvius.data.document import Document

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def document() -> Callable[..., Document]:
    """A document with a text, and what else is given."""

    def make(text: str = "", **fields: object) -> Document:
        return Document(**({"id": "d", "file": "f", "line": 1, "byte_offset": 0, "text": text} | fields))

    return make


@pytest.fixture
def failing() -> Callable[..., list[str]]:
    """The reasons of the measures of a rule that do not pass."""

    def reasons(rule: object, document: Document) -> list[str]:
        return [measure.reason for measure in rule.measures(document) if not measure.passed]

    return reasons
