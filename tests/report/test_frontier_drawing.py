"""The chart is whole SVG in which no two texts overlap, whatever the curves; the table says the same."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from vitruvius.report.frontier import COLOURS, DASHES, frontier_svg, frontier_text
from vitruvius.report.svg import text_width
from vitruvius.sizing.frontier import MOST_CURVES, Curve, Frontier, Point

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SVG = "{http://www.w3.org/2000/svg}"


def frontier_of(*contexts: tuple[int, ...], name: str = "an-arch", declared: int = 8192) -> Frontier:
    curves = tuple(
        Curve(
            device=f"device-{i}-with-quite-a-long-name-80gb" if i % 3 == 0 else f"device-{i}",
            count=1 + i % 2 * 7,
            available_bytes=(i + 1) * 24 * 10**9,
            points=tuple(
                Point(batch=batch, context=context, is_capped=context == 2**20)
                for batch, context in zip(BATCHES, row, strict=False)
            ),
        )
        for i, row in enumerate(contexts)
    )
    return Frontier(
        name=name,
        mode="inference",
        weights="bf16",
        declared=declared,
        limit=2**20,
        why_limit="8 x the declared context",
        curves=curves,
    )


def falling(start: int) -> tuple[int, ...]:
    return tuple(min(2**20, start // batch) for batch in BATCHES)


CASES = {
    "one": frontier_of(falling(65_536)),
    "many": frontier_of(*(falling(2**12 * (i + 1) ** 2) for i in range(MOST_CURVES))),
    "equal": frontier_of(falling(50_000), falling(50_000), falling(50_000)),
    "nothing fits": frontier_of((0,) * 8, (0,) * 8),
    "capped": frontier_of((2**20,) * 8, falling(2**24)),
    "tiny": frontier_of((3, 1, 0, 0, 0, 0, 0, 0)),
    "long name": frontier_of(falling(10_000), name="a" * 100, declared=1_000_000),
}


@pytest.mark.parametrize("case", CASES)
def test_the_chart_is_well_formed_and_described(case: str) -> None:
    root = ET.fromstring(frontier_svg(CASES[case]))
    assert root.tag == f"{SVG}svg"
    assert "longest context" in (root.findtext(f"{SVG}title") or "")
    assert "hardware" in (root.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("case", CASES)
def test_no_two_texts_overlap_and_none_leaves_the_chart(case: str) -> None:
    root = ET.fromstring(frontier_svg(CASES[case]))
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    boxes: list[tuple[str, float, float, float, float]] = []
    for text in root.iter(f"{SVG}text"):
        size = float(text.get("font-size") or 11)
        words = text.text or ""
        wide = text_width(words, size, bold=text.get("font-weight") is not None)
        x, y = float(text.get("x") or 0), float(text.get("y") or 0)
        x -= {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor") or "start"]
        boxes.append((words, x, y - 0.75 * size, x + wide, y + 0.2 * size))
    for words, left, top, right, bottom in boxes:
        assert left >= 0, words
        assert right <= width, words
        assert top >= 0, words
        assert bottom <= height, words
    for i, (a, *first) in enumerate(boxes):
        for b, *second in boxes[i + 1 :]:
            apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
            assert apart, (a, b)


@pytest.mark.parametrize("case", CASES)
def test_every_point_lies_inside_the_plot(case: str) -> None:
    root = ET.fromstring(frontier_svg(CASES[case]))
    for circle in root.iter(f"{SVG}circle"):
        assert 80 <= float(circle.get("cx") or 0) <= 560
        assert 80 <= float(circle.get("cy") or 0) <= float(root.get("height") or 0) - 60


def test_curves_are_told_apart() -> None:
    text = frontier_svg(CASES["many"])
    looks = re.findall(r'stroke="(#[0-9a-f]{6})" stroke-width="2.2"(?: stroke-dasharray="([0-9 ]+)")?', text)
    assert len(set(looks)) == MOST_CURVES == len(COLOURS) * len(DASHES)


def test_the_key_lists_curves_from_the_highest_down() -> None:
    root = ET.fromstring(frontier_svg(frontier_of(falling(1000), falling(100_000), falling(10_000))))
    names = [t.text for t in root.iter(f"{SVG}text") if (t.text or "").lstrip("8x ").startswith("device-")]
    assert [re.sub(r".*device-(\d).*", r"\1", str(name)) for name in names] == ["1", "2", "0"]


def test_the_table_has_every_number_exactly() -> None:
    text = frontier_text(frontier_of(falling(65_537), (2**20, 5, 0, 0, 0, 0, 0, 0)))
    assert "65,537" in text
    assert ">=1,048,576" in text
    assert "not even one token" in text


def test_names_cannot_break_out_of_the_drawing() -> None:
    text = frontier_svg(frontier_of(falling(100), name="<script>&'\""))
    assert "<script>" not in text
