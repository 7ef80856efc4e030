"""Tables of the documentation are made from the code, and a place that names nothing is an error."""

from __future__ import annotations

import pytest

from vitruvius.errors import UsageError
from vitruvius.report.reference import page_of, refresh


def _filled(place):
    return refresh(f"before\n\n<!-- {place} -->\nold\n<!-- end -->\n\nafter")


def test_what_stands_around_a_place_is_kept_and_what_stands_in_it_is_not():
    page = _filled("fields of norm rmsnorm")
    assert page.startswith("before\n\n<!-- fields of norm rmsnorm -->\n| field |")
    assert page.endswith("<!-- end -->\n\nafter")
    assert "old" not in page
    assert refresh(page) == page


def test_a_field_has_what_it_takes_its_default_and_its_documentation():
    table = _filled("fields of norm rmsnorm")
    assert "| `eps` | number above 0 | `1e-05` | Added to the mean square. |" in table
    assert "| `gain` | `weight`, `1 + weight`, `none` | `weight` |" in table
    assert "| `experts` | whole number above 0 | required |" in _filled("fields of ffn moe")
    assert "| `scaling` | scaling | none |" in _filled("fields of position rope")
    assert "| `blocks` | mapping of names to blocks | required |" in _filled("fields of architecture")


def test_a_kind_without_fields_says_so():
    assert "It has no fields of its own." in _filled("fields of position alibi")


def test_kinds_link_to_their_pages():
    assert "[`yarn`](components/scaling-yarn.md)" in _filled("kinds of scaling")
    assert "[`yarn`](scaling-yarn.md)" in refresh("<!-- kinds of scaling -->\n<!-- end -->", components="")
    assert page_of("ffn", "moe") == "ffn-moe.md"


def test_presets_are_listed_with_their_sizes():
    assert "| `llama-moe` | 27.76 B | 10.85 B | 131,072 |" in _filled("presets")


@pytest.mark.parametrize("place", ["fields of norm nothing", "kinds of nothing", "fields of", "presets of ours"])
def test_a_place_that_names_nothing_is_an_error(place):
    with pytest.raises(UsageError, match="nothing is called"):
        _filled(place)
