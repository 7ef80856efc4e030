"""The published rules decide like datatrove's filters, whose verdicts on 330 texts lie beside this test.

`verdicts/datatrove_verdicts.py` makes them again.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vitruvius.data.cleaning.c4 import C4, C4Lines, sentences
from vitruvius.data.cleaning.fineweb import FineWeb
from vitruvius.data.cleaning.gopher_quality import GopherQuality
from vitruvius.data.cleaning.gopher_repetition import GopherRepetition
from vitruvius.data.cleaning.view import view_of

ROWS = [
    json.loads(line)
    for line in gzip.decompress((Path(__file__).parent / "verdicts" / "verdicts.jsonl.gz").read_bytes()).splitlines()
]

REASONS = {
    "dup_para_frac": "gopher_duplicate_paragraphs",
    "dup_para_char_frac": "gopher_duplicate_paragraph_characters",
    "dup_line_frac": "gopher_duplicate_lines",
    "dup_line_char_frac": "gopher_duplicate_line_characters",
    **{f"top_{n}_gram": f"gopher_top_{n}gram" for n in range(2, 5)},
    **{f"duplicated_{n}_n_grams": f"gopher_duplicate_{n}grams" for n in range(5, 11)},
    "gopher_short_doc": "gopher_few_words",
    "gopher_below_avg_threshold": "gopher_short_words",
    "gopher_above_avg_threshold": "gopher_long_words",
    "gopher_too_many_hashes": "gopher_hashes",
    "gopher_too_many_ellipsis": "gopher_ellipses",
    "gopher_too_many_bullets": "gopher_bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_alphabetic_words",
    "gopher_enough_stop_words": "gopher_stop_words",
    "line_punct_ratio": "fineweb_line_punctuation",
    "short_line_ratio": "fineweb_short_lines",
    "char_dup_ratio": "fineweb_duplicate_characters",
    "list_ratio": "fineweb_newlines",
    "lorem_ipsum": "c4_lorem_ipsum",
    "curly_bracket": "c4_curly_bracket",
    "too_few_sentences": "c4_few_sentences",
}
"""datatrove's reason -> ours."""


def _first_failing(rule, document):
    return next((measure for measure in rule.measures(document) if not measure.passed), None)


def _ours(name, document):
    if name.startswith("c4"):
        lines = C4Lines(unfinished="remove" if name == "c4" else "keep")
        return _first_failing(C4(), lines.rewritten(document).document)
    rules = {"gopher_repetition": GopherRepetition(), "gopher_quality": GopherQuality(), "fineweb": FineWeb()}
    return _first_failing(rules[name], document)


# The rest of the gopher rules' verdicts hang on words, which spaCy cuts and we cut by one regular expression.
AGREEMENT = {"gopher_repetition": 0.98, "gopher_quality": 0.94, "fineweb": 1.0, "c4": 1.0, "c4_as_fineweb": 0.99}


@pytest.mark.parametrize(("name", "least"), AGREEMENT.items(), ids=AGREEMENT)
def test_a_rule_decides_like_datatroves(name, least, document):
    same = 0
    for row in ROWS:
        theirs, ours = row["verdicts"][name], _ours(name, document(row["text"]))
        same += (theirs is True) == (ours is None)
    assert same / len(ROWS) >= least


@pytest.mark.parametrize("name", AGREEMENT)
def test_both_sides_are_among_the_texts(name):
    kept = sum(row["verdicts"][name] is True for row in ROWS)
    assert 0.1 * len(ROWS) < kept < 0.98 * len(ROWS)


@pytest.mark.parametrize("name", AGREEMENT)
def test_a_rule_gives_the_reason_that_datatrove_gives(name, document):
    dropped = [
        (row["verdicts"][name], found.reason)
        for row in ROWS
        if row["verdicts"][name] is not True and (found := _ours(name, document(row["text"]))) is not None
    ]
    same = sum(REASONS[theirs] == ours for theirs, ours in dropped)
    assert same / len(dropped) >= 0.95


def test_where_gophers_quality_differs_the_value_is_near_the_limit(document):
    for row in ROWS:
        theirs, ours = row["verdicts"]["gopher_quality"], _ours("gopher_quality", document(row["text"]))
        if theirs is True and ours is not None:
            assert abs(ours.value - ours.limit) <= 0.1 * ours.limit
        if theirs is not True and ours is None:
            reason = REASONS[theirs]
            near = next(look for look in GopherQuality().measures(document(row["text"])) if look.reason == reason)
            assert abs(near.value - near.limit) <= 0.1 * near.limit


def test_c4s_lines_are_datatroves_to_the_character(document):
    passing = [row for row in ROWS if row["verdicts"]["c4"] is True]
    assert len(passing) > 100
    for row in passing:
        assert C4Lines().rewritten(document(row["text"])).document.text == row["c4_text"]


def test_words_and_sentences_are_counted_like_spacys():
    words = sum(len(view_of(row["text"]).words) for row in ROWS) / sum(row["words"] for row in ROWS)
    assert words == pytest.approx(1, abs=0.02)
    cut = sum(sentences(row["text"]) for row in ROWS) / sum(row["sentences"] for row in ROWS)
    assert cut == pytest.approx(1, abs=0.005)
