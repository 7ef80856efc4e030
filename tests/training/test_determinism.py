"""Seeds, threads and algorithms of a run, and what is put back after it."""

from __future__ import annotations

import os

import torch

from vitruvius.training.determinism import WORKSPACE, deterministic, random_state, restore_random_state


def test_where_there_is_a_gpu_cublas_is_told_to_repeat_and_the_environment_is_put_back(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic(seed=0, threads=None):
        assert os.environ[WORKSPACE] == ":4096:8"
    assert WORKSPACE not in os.environ


def test_a_workspace_that_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic(seed=0, threads=None):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def test_without_a_gpu_the_environment_is_left_alone(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with deterministic(seed=0, threads=None):
        assert WORKSPACE not in os.environ


def test_a_random_state_of_two_gpus_is_restored_on_a_machine_with_one(monkeypatch):
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(2)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    kept = random_state()
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    restore_random_state(kept)
    assert [state.tolist() for state in restored] == [states[0].tolist()]
