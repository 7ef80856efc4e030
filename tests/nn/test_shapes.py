"""Shape annotations are checked in tests, and say what was wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitruvius.nn import shapes
from vitruvius.nn.shapes import Float, Int, shaped


@shaped
def lookup(table_VD: Float[Tensor, "V D"], ids_N: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:  # noqa: F722 (shapes)
    return table_VD[ids_N] if ids_N.numel() else table_VD.new_zeros(0, 1)


def test_tests_run_with_shapes_checked() -> None:
    assert shapes.CHECKED


def test_fitting_shapes_pass() -> None:
    assert lookup(torch.zeros(5, 3), torch.tensor([1, 2])).shape == (2, 3)


@pytest.mark.parametrize(
    ("table", "ids", "said"),
    [
        (torch.zeros(5), torch.tensor([1]), r"table_VD is \(5,\)"),
        (torch.zeros(5, 3), torch.tensor([1.0]), "ids_N is .*float32"),
        (torch.zeros(5, 3), torch.tensor([], dtype=torch.int64), r"return is \(0, 1\)"),
        (None, [1], "ids_N is list"),
    ],
)
def test_a_wrong_shape_or_dtype_names_the_argument_and_what_was_due(table, ids, said) -> None:
    with pytest.raises(TypeError, match=said):
        lookup(table, ids)
