"""Planted bugs stand in modules of their own, beside the tests that read them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
