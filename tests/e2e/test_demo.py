"""The demo, shortened: the whole journey on real text, and a page that holds it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest


class _Balanced(HTMLParser):
    """Raises when tags do not close in order."""

    EMPTY = frozenset({"meta", "br", "link", "img", "rect", "line", "path", "circle", "polyline", "polygon", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


@pytest.mark.slow
def test_the_demo_trains_a_model_that_beats_the_unigram_and_writes_its_page(vitruvius, tmp_path) -> None:
    out = tmp_path / "demo"
    done = vitruvius("demo", "--out", str(out), "--steps", "40", timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "says 8B, is 27.76 B" in done.stdout
    rows = re.findall(r"^ +(\d\.\d{3})  (.+)$", done.stdout, re.MULTILINE)
    bits = {name.strip(): float(value) for value, name in rows}
    assert bits["this model"] < bits["unigram over the same tokens"]
    page = (out / "index.html").read_text(encoding="utf-8")
    parser = _Balanced()
    parser.feed(page)
    assert not parser.open
    assert page.count("<svg") >= 2
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page

    again = vitruvius("demo", "--out", str(tmp_path), "--steps", "1")
    assert again.returncode == 2
    assert "not a demo's" in again.stderr
