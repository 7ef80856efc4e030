"""What only people know of a corpus: the questions of a dataset card that no program can answer, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.spec.reporting import did_you_mean, listed
from vitruvius.spec.source import load
from vitruvius.spec.tree import to_plain

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.spec.tree import Node

QUESTIONS: dict[str, str] = {
    "title": "What is it called?",
    "license": "Under which licence may it be used? (an SPDX name, such as cc-by-4.0)",
    "languages": "Which languages is it in? (a list of codes, such as [en, de])",
    "motivation": "For what purpose was it made?",
    "creators": "Who made it, and who paid for it?",
    "collection": "How were the documents acquired, and by whom?",
    "time_span": "Over what time were they written, and collected?",
    "speakers": "Whose language is it: which people, varieties and registers?",
    "consent": "Do those who wrote it know and agree, and how can they object?",
    "sensitive": "What in it may be confidential, offensive or personal?",
    "uses": "What has it been used for, and what is it good for?",
    "not_for": "What should it not be used for?",
    "distribution": "How is it distributed, and under which terms?",
    "maintenance": "Who keeps it up, and how are errors reported?",
    "citation": "How should it be cited?",
    "homepage": "Where is more to be found?",
}
"""Key of the file of `--about` -> what it answers. After Gebru et al., "Datasheets for Datasets", 2021, and Bender and
Friedman, "Data Statements for Natural Language Processing", 2018."""
LISTS = ("languages",)
NOT_STATED = "unknown"
"""The licence of the front matter where none was stated: hubs know this word."""


def read_about(path: Path) -> dict[str, Any]:
    """The answers in a YAML file: a mapping of keys of `QUESTIONS` to texts, and of `languages` to a list.

    Raises:
        SpecError: every finding at its line.
    """
    tree = load(path)
    fields = cast("dict[str, Node]", tree.value)
    findings: list[Finding] = []
    answers: dict[str, Any] = {}
    for key, node in fields.items():
        place: dict[str, Any] = {"file": node.file, "line": node.line, "column": node.column, "path": key}
        value = to_plain(node)
        if key not in QUESTIONS:
            near = did_you_mean(key, QUESTIONS) or f"the fields are {listed(QUESTIONS, 40)}"
            findings.append(Finding(what=f"there is no field {key!r}", fix=near, **place))
        elif key in LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            findings.append(Finding(what="a list of texts is due here", fix="languages: [en]", **place))
        elif key not in LISTS and not isinstance(value, str):
            findings.append(Finding(what="a text is due here", fix="put it in quotes", **place))
        else:
            answers[key] = value
    if findings:
        raise SpecError(findings)
    return answers


def check_license(name: str) -> str:
    """A licence as front matter holds it.

    Raises:
        UsageError: it is no name.
    """
    plain = name.strip()
    if not plain or len(plain) > 100 or not all(ch.isascii() and (ch.isalnum() or ch in ".-+_") for ch in plain):
        raise UsageError(
            f"{name[:100]!r} is no name of a licence", where="--license", fix="use an SPDX name, such as cc-by-4.0"
        )
    return plain
