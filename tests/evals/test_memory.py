"""Peaks of memory: what is added up, and against what torch says of its own tensors."""

from __future__ import annotations

import pytest
import torch

from vitruvius.evals.memory import available_bytes, forget_high_water, high_water, peak_of, resident, storage_bytes


def test_the_peak_is_the_highest_sum_up_to_any_moment():
    assert peak_of([(3, -10), (1, 10), (2, 5), (4, 2)]) == 15
    assert peak_of([]) == 0
    assert peak_of([(1, -100)]) == 0  # freed memory from before lowers nothing


def test_a_storage_counts_once_however_many_tensors_look_at_it():
    x = torch.zeros(1000)
    assert storage_bytes([x, x[10:], x.view(10, 100).T]) == 4000
    assert storage_bytes([x, torch.zeros(10, dtype=torch.bfloat16)]) == 4020


def test_the_high_water_mark_can_be_forgotten_and_rises_again():
    if not forget_high_water():
        pytest.skip("this system keeps no high-water mark")
    before = high_water() or 0
    block = torch.ones(16 * 2**20)  # 64 MiB, touched
    assert (high_water() or 0) >= before + 50 * 2**20
    assert (resident() or 0) >= 64 * 2**20
    del block


def test_available_memory_is_some_number_of_bytes_or_unknown():
    found = available_bytes(torch.device("cpu"))
    assert found is None or found > 0
