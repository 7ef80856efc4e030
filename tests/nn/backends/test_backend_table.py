"""One table says which backend computes an attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_cases import NAMES, Case
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.nn.backends import BACKENDS, attend, choose
from vitruvius.nn.backends.table import STORED, TABLE, TERMS, Situation, lookup
from vitruvius.patterns import causal, everything, parse

PLAIN = Situation(pattern=causal, terms=frozenset(), device="cpu", dtype="float32", work="infer", widths=(64, 64))


@pytest.mark.parametrize(
    ("change", "backend"),
    [
        ({}, "sdpa"),
        ({"pattern": everything}, "sdpa"),
        ({"work": "train"}, "chunked"),
        ({"pattern": parse("causal & sliding(3)")}, "chunked"),
        ({"terms": frozenset({"documents"})}, "chunked"),
        ({"widths": (192, 128)}, "chunked"),
        ({"device": "cuda", "work": "train", "dtype": "bfloat16"}, "sdpa"),
        ({"device": "cuda", "work": "train", "pattern": parse("causal & sliding(3)")}, "flex"),
        ({"device": "cuda", "work": "train", "terms": frozenset({"decay"})}, "flex"),
        ({"device": "cuda", "dtype": "float64"}, "chunked"),
        ({"device": "mps", "pattern": parse("causal & sliding(3)")}, "chunked"),
    ],
)
def test_the_table_answers_each_situation(change, backend) -> None:
    assert lookup(TABLE, replace(PLAIN, **change)).backend == backend


@given(
    terms=st.sets(st.sampled_from(sorted(TERMS))),
    device=st.sampled_from(["cpu", "cuda", "mps", "xpu"]),
    work=st.sampled_from(["train", "infer"]),
    widths=st.sampled_from([(8, 8), (8, 6)]),
)
def test_every_situation_has_a_backend_that_exists_and_knows_its_terms(terms, device, work, widths) -> None:
    situation = replace(PLAIN, terms=frozenset(terms), device=device, work=work, widths=widths)
    for table in (TABLE, STORED):
        row = lookup(table, situation)
        assert row.fits(situation)
        assert row.why
    assert lookup(TABLE, situation).backend in BACKENDS


def test_a_call_is_sent_where_the_table_says() -> None:
    case = Case.of("causal", 20, value_width=8)
    q, k, v = (case.leaves[n] for n in "qkv")
    assert choose(q, k, v, case.request) == "chunked"
    with torch.no_grad():
        assert choose(q, k, v, case.request) == "sdpa"
    assert choose(q.detach(), k.detach(), v.detach(), case.request) == "sdpa"
    for name in NAMES:
        with torch.no_grad():
            assert choose(q, k, v, Case.of("causal", 20, [name]).request) == "chunked"


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    case = Case.of("causal", 4)
    request = replace(case.request, place=replace(case.request.place, backend="magic"))
    with pytest.raises(UsageError, match="there is no backend 'magic'"):
        attend(*(case.leaves[n] for n in "qkv"), request)
