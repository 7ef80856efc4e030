"""Findings as a reader wants them: what was written once is said once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.errors import Finding


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that say the same of the same place, which blocks inherit, as one that names every path."""
    found: dict[Finding, list[str]] = {}
    for finding in findings:
        found.setdefault(replace(finding, path=""), []).append(finding.path)
    return [replace(finding, path=_joined(paths)) for finding, paths in found.items()]


def _joined(paths: list[str]) -> str:
    """`blocks.{local,full}.mixer.position` for paths that differ in one place, else all of them."""
    unique = list(dict.fromkeys(paths))
    if len(unique) == 1:
        return unique[0]
    split = [path.split(".") for path in unique]
    if len({len(parts) for parts in split}) == 1:
        columns = [list(dict.fromkeys(column)) for column in zip(*split, strict=True)]
        if sum(len(column) > 1 for column in columns) == 1:
            return ".".join(c[0] if len(c) == 1 else "{" + ",".join(c) + "}" for c in columns)
    return ", ".join(unique)
