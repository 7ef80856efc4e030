"""The bill reads well, and every number in it opens to arithmetic that gives that number."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from vitruvius.report.bill import RIGHT, WRONG, bill_text, format_flops
from vitruvius.report.formulas import Amount, explain, lines
from vitruvius.report.tables import columns, markdown
from vitruvius.sizing import size
from vitruvius.spec import preset, preset_names, resolve


def _value(formula: str) -> Fraction:
    """What a formula says: products and quotients from left to right."""
    terms = formula.replace(",", "").split(" ")
    value = Fraction(terms[0])
    for sign, number in zip(terms[1::2], terms[2::2], strict=True):
        value = value * int(number) if sign == "x" else value / int(number)
    return value


def _every(amounts):
    for amount in amounts:
        yield amount
        yield from _every(amount.parts)


@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_every_formula_gives_its_number_and_every_sum_its_parts(name, mode, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    bill = size(architecture, batch=3, mode=mode, dtype="fp32")
    for amount in _every(explain(architecture, bill)):
        if amount.formula:
            assert _value(amount.formula) == amount.value, amount
        else:
            assert not amount.parts or sum(part.value for part in amount.parts) == amount.value, amount


@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
def test_the_arithmetic_ends_in_the_numbers_of_the_bill(name, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    bill = size(architecture, context=100, batch=2)
    values = {amount.value for amount in explain(architecture, bill)}
    memory = {bill.weights_bytes, bill.kv_cache_bytes, bill.state_bytes} - {0}
    assert {bill.parameters.total, bill.parameters.active, *memory} <= values
    assert bill.forward_flops in values


@pytest.mark.parametrize("name", [name for name in preset_names() if not name.startswith("tiny-")])
def test_the_parts_of_a_repeated_block_are_those_of_one_layer(name):
    architecture = preset(name)
    total = explain(architecture, size(architecture))[0]
    graph = resolve(architecture)
    names = {layer.name for layer in (*graph.encoder, *graph.layers)}
    blocks = [part for part in total.parts if part.name in names]
    assert {block.name for block in blocks} == names
    for block in blocks:
        layers, one = block.formula.split(" x ")
        assert sum(part.value for part in block.parts) == int(one.replace(",", ""))
        assert int(layers) >= 1


def test_the_arithmetic_is_shown_as_a_ledger():
    amount = Amount(value=12, name="all", parts=(Amount(value=12, name="it", formula="3 x 4"),))
    assert list(lines([amount])) == ["12  all", "12    it = 3 x 4", ""]


def test_a_bill_shows_what_a_person_asks_for():
    text = bill_text(size(preset("llama-moe")))
    for words in ("27,760,791,552", "27.76 B", "10,849,357,824", "55.52 GB", "51.71 GiB", "17.18 GB", "16.00 GiB"):
        assert words in text
    assert re.search(r"^moe +16 +1\.451 B +394\.3 M", text, re.MULTILINE)


def test_a_wrong_claim_is_marked_and_says_what_is_true():
    text = bill_text(size(preset("llama-moe")))
    assert f"{WRONG} parameters: says 8B, is 27.76 B (27,760,791,552)" in text
    assert f"{RIGHT} parameters: says 30.5B, and is 30.53 B (30,532,122,624)" in bill_text(
        size(preset("qwen3-30b-a3b"))
    )


def test_a_bill_for_training_has_no_cache():
    text = bill_text(size(preset("tiny-llama"), mode="train"))
    assert "training" in text.splitlines()[0]
    assert "KV cache" not in text


@pytest.mark.parametrize(
    ("flops", "shown"), [(0, "0 FLOP"), (55e9, "55.00 GFLOP"), (2.5e6, "2.500 MFLOP"), (7e13, "70.00 TFLOP")]
)
def test_flops_have_the_prefixes_of_physics(flops, shown):
    assert format_flops(flops) == shown


def test_columns_are_as_wide_as_what_stands_in_them():
    assert columns([("a", "1"), ("bcd", "23"), ("e",)], align="<>") == ["a     1", "bcd  23", "e"]
    assert markdown(("x",), [("a|b",)]) == "| x |\n| --- |\n| a\\|b |"
