"""A bench as text, Markdown and HTML, from plain data: nothing predicted can be taken for measured."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest

from vitruvius.report.bench_page import bench_page
from vitruvius.report.bench_text import bench_markdown, bench_text, cells, duration, notes, number
from vitruvius.report.flame import flame_svg

EVIL = '<script>alert(1)</script>&"'


def row(phase, length, status="measured", **more):
    spread = {"median": 0.5, "iqr": 0.1, "q1": 0.45, "q3": 0.55}
    rate = {"median": 2 * length, "iqr": length / 10, "q1": 1.9 * length, "q3": 2.1 * length}
    guess = {
        "seconds": 3.0,
        "low_seconds": 1.5,
        "high_seconds": 6.0,
        "off_by": 2.0,
        "tokens_per_second": length / 3.0,
        "peak_memory_bytes": 123_000_000,
        "peak_memory_unsure_bytes": 0,
        "basis": "runs of 64, 192 tokens",
        "measured_over_predicted": None,
    }
    measured = status == "measured"
    return {
        "contender": "it",
        "phase": phase,
        "length": length,
        "status": status,
        "reason": None if measured else "the time was used up (--minutes)",
        "seconds": spread if measured else None,
        "tokens_per_second": rate if measured else None,
        "warmups": 20 if measured else 0,
        "runs": 30 if measured else 0,
        "share_of_bound": 0.123 if measured else None,
        "share_of_products": 0.0456 if measured else None,
        "predicted": guess if status in {"measured", "predicted"} else None,
        "peak_memory_bytes": 45_000_000 if measured else None,
        "notes": [],
    } | more


def breakdown(phase="prefill", **more):
    parts = [("mixer attention", "a", 0.6), ("ffn swiglu", "a", 0.3), ("head lm", None, 0.1)]
    return {
        "contender": "it",
        "phase": phase,
        "length": 4096,
        "covers": None,
        "kernels_only": False,
        "recorded_runs": 3,
        "seconds": 1.0,
        "sum_of_parts_seconds": 1.0,
        "overhead": 0.2,
        "components": [{"name": name, "seconds": share, "share": share} for name, _, share in parts],
        "blocks": [],
        "parts": [
            {
                "component": name,
                "block": block,
                "calls": 4,
                "forward_seconds": share,
                "backward_seconds": 0.0,
                "share": share,
            }
            for name, block, share in parts
        ],
    } | more


DOCUMENT = {
    "schema": "vitruvius.bench/1",
    "name": "it",
    "contenders": [
        {"name": "it", "architecture": "it", "backend": "auto", "parameters": 1_234_567, "active_parameters": 1_234_567}
    ],
    "lengths": [4096, 16_384],
    "phases": ["prefill", "decode", "train"],
    "batch": 1,
    "dtype": "bf16",
    "device": "cpu",
    "threads": 2,
    "seed": 0,
    "budget_seconds": 60.0,
    "seconds": 50.0,
    "rows": [
        row("prefill", 4096),
        row("prefill", 16_384, "predicted"),
        row("decode", 4096, notes=["9 runs instead of 30: slow"]),
        row("decode", 16_384, notes=["9 runs instead of 30: slow"]),
        row("train", 4096, "does not apply", reason="it cannot"),
        row("train", 16_384, "failed", reason="raised ValueError: boom"),
    ],
    "comparisons": [],
    "breakdown": [breakdown()],
    "machine": {"title": "A Processor", "notes": ["other work was running"]},
    "notes": [],
    "environment": {
        "cpu": "A Processor",
        "machine": "x86_64",
        "packages": {"torch": "2.13.0"},
        "load_average": {"before": 0.3, "after": 1.0},
    },
}


@pytest.fixture
def document():
    return copy.deepcopy(DOCUMENT)


class Balance(HTMLParser):
    """Raises where a tag is closed that is not open, or left open."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


def against(document):
    document["contenders"].append({**document["contenders"][0], "name": "other", "architecture": "other"})
    document["rows"] += [dict(one, contender="other") for one in document["rows"]]
    document["comparisons"] = [
        {
            "a": "it",
            "b": "other",
            "phase": "prefill",
            "length": 4096,
            "times_as_fast": 1.01,
            "ci_low": 0.98,
            "ci_high": 1.04,
            "level": 0.99,
            "rounds": 30,
            "verdict": verdict,
            "reason": "because",
        }
        for verdict in ("inconclusive", "faster")
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Text


def test_a_measured_row_shows_medians_quartiles_and_shares():
    assert cells(DOCUMENT["rows"][0]) == (
        "prefill",
        "4,096",
        "8,192",
        "7,782 to 8,602",
        "500 ms",
        "20 + 30",
        "12.3%",
        "4.6%",
        "45.00 MB",
    )


def test_a_predicted_row_is_marked_and_shows_how_far_off_it_may_be():
    shown = cells(DOCUMENT["rows"][1])
    assert shown[5] == "predicted"
    assert [cell for cell in shown if cell.startswith("~")] == ["~5,461", "~3 s", "~123.0 MB"]
    assert shown[3] == "2,731 to 10,923"


def test_rows_of_which_the_same_is_to_be_said_share_a_line(document):
    lines = notes(document)
    assert "note: decode at 4,096 and 16,384: 9 runs instead of 30: slow" in lines
    assert any(
        "prefill at 16,384: predicted from runs of 64, 192 tokens, off by up to 2.0 times" in one for one in lines
    )
    assert "note: train at 4,096: it cannot" in lines
    assert "note: train at 16,384: raised ValueError: boom" in lines


def test_a_difference_inside_the_noise_is_called_inconclusive(document):
    against(document)
    text = bench_text(document)
    assert "it is inconclusive against other: 1.010 times as fast (0.980 to 1.040, 30 rounds); because" in text
    assert "it is faster than other" in text


def test_markdown_has_a_line_for_each_row(document):
    lines = bench_markdown(document).splitlines()
    phases = ("| prefill", "| decode", "| train")
    assert sum(line.startswith(phases) for line in lines) == len(document["rows"])
    assert "| mixer attention | 60.0% |" in lines
    assert sum("predicted" in line for line in lines if line.startswith("|")) == 1


def test_bars_can_be_plain():
    assert "#" * 18 in bench_text(DOCUMENT, bar="#")
    assert bench_text(DOCUMENT, bar="#").isascii()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00321, "3.21 ms"), (12.34, "12.3 s"), (600, "10 min"), (7200 * 2, "4 h")]
)
def test_durations_read_as_people_say_them(seconds, shown):
    assert duration(seconds) == shown


def test_numbers_have_about_four_digits():
    assert [number(value) for value in (0.12345, 12.345, 1234.5)] == ["0.1235", "12.35", "1,234"]


# ----------------------------------------------------------------------------------------------------------------------
# Page


def test_the_page_is_well_formed_and_holds_everything(document):
    against(document)
    page = bench_page(document, flame=flame_svg({("run", "a"): 1.0}, title="flame"))
    Balance(page)
    for part in ("8,192", "predicted", "raised ValueError: boom", "inconclusive", "mixer attention", "A Processor"):
        assert part in page
    assert page.count('class="mark">predicted<') == 2
    assert page.count('<tr class="predicted">') == 2


def test_the_page_needs_nothing_from_elsewhere_and_has_both_looks(document):
    page = bench_page(document)
    assert not re.search(r"<script|<link|src=|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_predicted_points_of_the_chart_are_hollow_and_joined_by_dashes(document):
    page = bench_page(document)
    assert page.count('fill="var(--paper)"') == 1
    assert page.count("stroke-dasharray") == 1


def test_names_cannot_break_out_of_the_page(document):
    against(document)
    document["name"] = document["contenders"][0]["name"] = document["contenders"][0]["architecture"] = EVIL
    for one in document["rows"]:
        one["contender"] = EVIL if one["contender"] == "it" else EVIL + "2"
        one["notes"] = [EVIL]
    document["contenders"][1]["name"] = EVIL + "2"
    document["comparisons"][0]["a"] = document["machine"]["title"] = EVIL
    document["breakdown"] = [breakdown(contender=EVIL, components=[{"name": EVIL, "seconds": 1.0, "share": 1.0}])]
    page = bench_page(document)
    Balance(page)
    assert "<script" not in page


def test_a_bench_that_could_run_nothing_has_a_page_too(document):
    document["rows"] = [row("prefill", 1, "failed", reason="raised X"), row("decode", 1, "does not apply", reason="no")]
    document["breakdown"], document["machine"] = [], None
    Balance(bench_page(document))
    assert "raised X" in bench_text(document)


def test_one_length_makes_a_chart_with_one_point(document):
    document["rows"] = [row("prefill", 4096)]
    page = bench_page(document)
    Balance(page)
    assert page.count("<circle") == 1
