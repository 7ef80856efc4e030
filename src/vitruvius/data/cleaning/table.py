"""Every kind of step by its name: those that come with Vitruvius, and those of installed packages."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from importlib import import_module, metadata

from vitruvius.data.cleaning.run import EMPTIED, EMPTIED_MEANING
from vitruvius.data.cleaning.step import Rule, Step
from vitruvius.errors import UsageError

ENTRY_POINTS = "vitruvius.cleaning"
"""The group under which an installed package names its step classes."""

_BUILT_IN = {
    "c4": "c4:C4",
    "c4_lines": "c4:C4Lines",
    "code": "source_code:Code",
    "fineweb": "fineweb:FineWeb",
    "gopher_quality": "gopher_quality:GopherQuality",
    "gopher_repetition": "gopher_repetition:GopherRepetition",
    "html": "web_pages:Html",
    "language": "language:Language",
    "pii": "pii:Pii",
    "unicode": "unicode:Unicode",
    "url": "urls:Url",
    "whitespace": "whitespace:Whitespace",
}
"""Kind -> module and class. A new step is a file and a row here."""


@cache
def kinds() -> dict[str, type[Step]]:
    """Every kind of step and its class, in alphabetical order.

    Raises:
        UsageError: an installed package offers what is no step.
    """
    found: dict[str, type[Step]] = {}
    for kind, place in _BUILT_IN.items():
        module, name = place.split(":")
        found[kind] = getattr(import_module(f"vitruvius.data.cleaning.{module}"), name)
        assert found[kind].kind == kind
    for point in metadata.entry_points(group=ENTRY_POINTS):
        step = _installed(point)
        if step.kind in found:
            raise _unfit(point, f"the kind {step.kind!r} exists already")
        found[step.kind] = step
    return dict(sorted(found.items()))


def _installed(point: metadata.EntryPoint) -> type[Step]:
    try:
        step = point.load()
    except Exception as error:
        raise _unfit(point, f"it fails to load: {type(error).__name__}: {error}") from error
    if not (isinstance(step, type) and issubclass(step, Step) and is_dataclass(step)):
        raise _unfit(point, "it is no dataclass that inherits from Rule or Rewriter")
    return step


def _unfit(point: metadata.EntryPoint, why: str) -> UsageError:
    package = "an installed package" if point.dist is None else f"the installed package {point.dist.name!r}"
    return UsageError(
        f"{package} offers {point.name} = {point.value}, but {why}",
        where=f"entry points {ENTRY_POINTS}",
        fix="repair the package, or uninstall it",
    )


def rule_reasons() -> dict[str, str]:
    """Every reason for which a step may drop a document -> what it means."""
    found: dict[str, str] = {EMPTIED: EMPTIED_MEANING}
    for step in kinds().values():
        if issubclass(step, Rule):
            found.update(step.reasons)
    return found
