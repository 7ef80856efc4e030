"""Student's intervals against the printed tables."""

from __future__ import annotations

import pytest

from vitruvius.lab.intervals import mean_interval, student_cdf, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062047),
        (2, 4.3026527),
        (3, 3.1824463),
        (4, 2.7764451),
        (9, 2.2621572),
        (30, 2.0422725),
        (1000, 1.9623391),
    ],
)
def test_quantiles_are_those_of_the_table(freedom, quantile):
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-8)


def test_one_degree_of_freedom_is_the_cauchy_distribution():
    assert student_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-12)
    assert student_cdf(0.0, 7) == pytest.approx(0.5, abs=1e-12)


def test_the_interval_of_a_few_values():
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 4.3026527 / 3**0.5, abs=1e-6)
    assert found.high == pytest.approx(2 + 4.3026527 / 3**0.5, abs=1e-6)


def test_one_value_has_no_interval_and_equal_ones_an_empty_one():
    assert (mean_interval([0.3]).low, mean_interval([0.3]).high) == (None, None)
    assert mean_interval([0.0, 0.0]) == mean_interval([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="nothing"):
        mean_interval([])
