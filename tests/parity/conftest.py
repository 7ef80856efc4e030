"""Parity tests compare small models: one thread computes them faster than several that wait for each other."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test of this folder."""
