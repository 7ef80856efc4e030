"""Peaks of memory: what is added up, and against what torch says of its own tensors."""

from __future__ import annotations

import pytest
import torch

from vitruvius.evals.memory import available_bytes, peak_of, storage_bytes


def test_the_peak_is_the_highest_sum_up_to_any_moment():
    assert peak_of([(3, -10), (1, 10), (2, 5), (4, 2)]) == 15
    assert peak_of([]) == 0
    assert peak_of([(1, -100)]) == 0  # freed memory from before lowers nothing


def test_a_storage_counts_once_however_many_tensors_look_at_it():
    x = torch.zeros(1000)
    assert storage_bytes([x, x[10:], x.view(10, 100).T]) == 4000
    assert storage_bytes([x, torch.zeros(10, dtype=torch.bfloat16)]) == 4020


@pytest.mark.slow
def test_the_high_water_mark_can_be_forgotten_and_rises_again(python):
    # In a process of its own: one that keeps freed memory would take the block from there.
    done = python("""
import torch
from vitruvius.evals.memory import forget_high_water, high_water, resident
block = torch.ones(64 * 2**20)
del block
forgotten, before = forget_high_water(), high_water()
block = torch.ones(16 * 2**20)
print(forgotten, before, high_water(), resident())
""")
    forgotten, *numbers = done.stdout.split()
    if forgotten == "False":
        pytest.skip("this system keeps no high-water mark")
    before, after, now = map(int, numbers)
    assert after >= before + 50 * 2**20  # 64 MiB, and no longer the 256 MiB before
    assert after < before + 200 * 2**20
    assert 64 * 2**20 <= now <= after + 2**20


def test_available_memory_is_some_number_of_bytes_or_unknown():
    found = available_bytes(torch.device("cpu"))
    assert found is None or found > 0
