"""Amounts are read and printed exactly, and a quoted number stands for what its digits say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius import units
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from decimal import Decimal

naturals = st.integers(min_value=0, max_value=10**21)
positives = st.integers(min_value=1, max_value=10**15)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1", 1),
        ("4096", 4096),
        ("131,072", 131_072),
        ("131_072", 131_072),
        ("128k", 131_072),
        ("128K", 131_072),
        ("100k", 102_400),
        ("1.5k", 1_536),
        ("1m", 1_048_576),
        (" 8 k ", 8_192),
    ],
)
def test_a_k_of_tokens_is_1024(text, tokens):
    assert units.parse_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7B", 7_000_000_000),
        ("7b", 7_000_000_000),
        ("27.76B", 27_760_000_000),
        ("27.76 B", 27_760_000_000),
        ("135M", 135_000_000),
        ("8,030,261,248", 8_030_261_248),
        ("1e12", 10**12),
        ("1.5e3", 1_500),
        ("2T", 2 * 10**12),
        ("300 P", 3 * 10**17),
        ("0", 0),
    ],
)
def test_parameters_and_flops_are_decimal(text, count):
    assert units.parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 GiB", 24 * 2**30),
        ("24gib", 24 * 2**30),
        ("512 MB", 512 * 10**6),
        ("1KB", 1_000),
        ("1KiB", 1_024),
        ("0.5 TB", 5 * 10**11),
        ("2 PiB", 2**51),
        ("4096", 4_096),
        ("4096 B", 4_096),
    ],
)
def test_gb_is_decimal_and_gib_is_binary(text, size):
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("parse", [units.parse_tokens, units.parse_count, units.parse_bytes])
@pytest.mark.parametrize(
    "text",
    [
        "", " ", "k", "x", "-1", "+1", "1,00", "1,0000", "1__0", "0x10", "1e-3", "1e999", "nan", "inf", "1 2", "1.",
        ".5", "٤", "1kk", "1 zb", "9" * 5_000, "1\x00", "1\x1b[2J",
    ],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused_with_the_way_out(parse, text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.fix.startswith("write ")
    assert "\x1b" not in str(caught.value) and "\x00" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["0", "0k", "1.5", "0.3k"])
def test_tokens_are_whole_and_at_least_one(text):
    with pytest.raises(UsageError):
        units.parse_tokens(text)


def test_a_unit_of_another_family_is_refused_by_name():
    with pytest.raises(UsageError, match="unknown unit 'GB'"):
        units.parse_tokens("16GB")
    with pytest.raises(UsageError, match="unknown unit 'GiB'"):
        units.parse_count("16GiB")
    with pytest.raises(UsageError, match="unknown unit 'M'"):
        units.parse_bytes("16M")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.000 K"),
        (134_515_008, "134.5 M"),
        (8_030_261_248, "8.030 B"),
        (27_760_791_552, "27.76 B"),
        (999_949_999, "999.9 M"),
        (999_950_000, "1.000 B"),
        (671_026_419_200, "671.0 B"),
        (2.5e15, "2.500 P"),
        (0.25, "0.25"),
    ],
)
def test_counts_print_four_digits_and_never_a_thousand_of_a_smaller_unit(amount, text):
    assert units.format_count(amount) == text


@pytest.mark.parametrize(
    ("amount", "decimal", "binary"),
    [
        (0, "0 B", "0 B"),
        (1_023, "1.023 KB", "1,023 B"),
        (1_024, "1.024 KB", "1.000 KiB"),
        (55_521_583_104, "55.52 GB", "51.71 GiB"),
        (24 * 2**30, "25.77 GB", "24.00 GiB"),
        (2**40 - 1, "1.100 TB", "1.000 TiB"),
    ],
)
def test_bytes_print_in_the_unit_that_they_name(amount, decimal, binary):
    assert units.format_bytes(amount) == decimal
    assert units.format_binary_bytes(amount) == binary


@pytest.mark.parametrize(
    ("dollars", "text"),
    [(0, "$0.00"), (0.00042, "$0.00042"), (12.5, "$12.50"), (1234.4, "$1,234"), (3.1e6, "$3.100 M")],
)
def test_money_never_rounds_a_price_to_nothing(dollars, text):
    assert units.format_money(dollars) == text


def test_tokens_are_echoed_in_full():
    assert units.format_tokens(units.parse_tokens("128k")) == "131,072"
    assert units.exact(8_030_261_248) == "8,030,261,248"


@given(positives)
def test_every_digit_written_is_read_back(amount):
    assert units.parse_tokens(units.format_tokens(amount)) == amount
    assert units.parse_count(units.exact(amount)) == amount
    assert units.parse_bytes(units.exact(amount)) == amount


@given(naturals)
def test_a_printed_amount_stands_for_an_interval_that_holds_the_exact_one(amount):
    assert amount in units.parse_quoted(units.format_count(amount), "count")
    assert amount in units.parse_quoted(units.format_bytes(amount), "bytes")
    assert amount in units.parse_quoted(units.format_binary_bytes(amount), "bytes")


@given(st.decimals(min_value=0, max_value=10**6, places=3), st.sampled_from(["K", "M", "B", "T"]))
def test_reading_a_decimal_number_is_exact(number: Decimal, unit):
    worth = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[unit]
    assert units.parse_count(f"{number:f}{unit}") == number * worth


@pytest.mark.parametrize(
    ("text", "scale", "low", "value", "high"),
    [
        ("8B", "count", 7_500_000_000, 8_000_000_000, 8_500_000_000),
        ("8.0B", "count", 7_950_000_000, 8_000_000_000, 8_050_000_000),
        ("27.76 B", "count", 27_755_000_000, 27_760_000_000, 27_765_000_000),
        ("16 GB", "bytes", 15_500_000_000, 16_000_000_000, 16_500_000_000),
        ("16 GiB", "bytes", 16_642_998_272, 17_179_869_184, 17_716_740_096),
        ("100k", "tokens", 101_888, 102_400, 102_912),
        ("8,030,261,248", "count", 8_030_261_248, 8_030_261_248, 8_030_261_249),
        ("0B", "count", 0, 0, 500_000_000),
        ("1.5K", "count", 1_450, 1_500, 1_550),
    ],
)
def test_a_quoted_number_stands_for_what_rounds_to_it(text, scale, low, value, high):
    quoted = units.parse_quoted(text, scale)
    assert (quoted.low, quoted.value, quoted.high) == (low, value, high)


def test_a_claim_is_held_against_the_exact_number():
    assert 27_760_791_552 in units.parse_quoted("27.76B", "count")
    assert 27_760_791_552 not in units.parse_quoted("47B", "count")
    assert 7_500_000_000 in units.parse_quoted("8B", "count")
    assert 8_500_000_000 not in units.parse_quoted("8B", "count")
    assert 5_802_037_248 not in units.parse_quoted("7B", "count")
