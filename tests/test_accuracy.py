"""The page on accuracy says of us what is so, and of the peers what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitruvius.sizing import size
from vitruvius.spec import preset

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "accuracy.md").read_text(encoding="utf-8")


def rows(place: str) -> list[list[str]]:
    table = re.search(rf"<!-- {place} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert table is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]
    assert cells, f"the table {place} is empty"
    return cells


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


@pytest.mark.parametrize("row", rows("parameters"), ids=lambda row: row[0])
def test_parameters_are_those_of_the_built_model(row):
    name, built, ours = row[0].strip("`"), number(row[1]), row[2]
    assert size(preset(name)).parameters.total == built
    assert ours == "0"


@pytest.mark.parametrize("row", rows("caches"), ids=lambda row: row[0])
def test_decode_state_is_what_is_allocated(row):
    bill = size(preset(row[0].strip("`")))
    assert (bill.context, bill.kv_cache_bytes + bill.state_bytes) == (number(row[1]), number(row[2]))
    assert row[3] == "0"


def test_the_peers_errors_are_the_known_ones():
    """Measured a second time, for this page, they came out as they had been published before it."""
    parameters = {row[0].strip("`"): row for row in rows("parameters")}
    caches = {row[0].strip("`"): row for row in rows("caches")}
    assert parameters["llama-3-8b"][3] == "-6.5 %"
    assert parameters["mixtral-8x7b"][4] == "-84.5 %"
    assert caches["deepseek-v3"][4] == "24.89x"
