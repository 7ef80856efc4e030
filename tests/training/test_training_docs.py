"""docs/training.md lists every setting with its default, as the code has them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import textwrap
from pathlib import Path

from vitruvius.training import TrainConfig
from vitruvius.training.loop import Update
from vitruvius.training.settings import SECTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
BEGIN, END = "<!-- settings: written by tests/training/test_training_docs.py -->\n", "<!-- end of settings -->"


def documented(settings):
    """Name -> docstring of every field, from the literals under them."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    texts, last = {}, None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            last = node.target.id
        elif isinstance(node, ast.Expr) and last is not None:
            texts[last] = " ".join(inspect.cleandoc(node.value.value).split())
            last = None
    return texts


def written(value):
    if value is None:
        return "null"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def rows_of(settings, prefix=""):
    texts = documented(settings)
    for f in dataclasses.fields(settings):
        if f.name in SECTIONS:
            yield from rows_of(SECTIONS[f.name], f"{f.name}.")
        else:
            yield f"| `{prefix}{f.name}` | {written(f.default)} | {texts[f.name]} |"


def table():
    rows = list(rows_of(TrainConfig))
    return "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows, ""])


def test_the_page_lists_every_setting_as_the_code_has_it():
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    now = before + BEGIN + table() + END + after
    if os.environ.get("VITRUVIUS_GOLDEN") == "write":
        PAGE.write_text(now, encoding="utf-8")
    else:
        assert page == now, "VITRUVIUS_GOLDEN=write make test-fast ARGS=tests/training/test_training_docs.py"


def test_the_page_explains_every_metric_of_a_row(mixture, run_of):
    from vitruvius.runs import RunReader
    from vitruvius.training.settings import Watch

    page = PAGE.read_text(encoding="utf-8") + (PAGE.parent / "monitoring.md").read_text(encoding="utf-8")
    (row,) = RunReader(run_of(mixture, steps=1, watch=Watch(every=1)).run).metrics()
    assert {f.name for f in dataclasses.fields(Update)} - {"metrics", "verdict"} <= row.keys()
    names = {name.split("/")[0] + ("/PLACE" if "/" in name else "") for name in row}
    assert sorted(name for name in names if f"`{name}`" not in page) == []
