"""Files that the code makes and the repository keeps: compared, or with VITRUVIUS_GOLDEN=write made anew."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "VITRUVIUS_GOLDEN=write make test-fast ARGS=tests/golden"


@pytest.fixture
def kept() -> Callable[[str, str], None]:
    """Hold text against the file at a path below the repository: `kept("docs/spec.md", page)`."""

    def compare(path: str, text: str) -> None:
        file = ROOT / path
        if os.environ.get("VITRUVIUS_GOLDEN") == "write":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if before == text:
            return
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), path, "what the code makes now", lineterm=""
        )
        shown = "\n".join(line[:200] for _, line in zip(range(60), lines, strict=False))
        pytest.fail(f"{path} is not what the code makes. If the change is meant: {AGAIN}\n{shown}", pytrace=False)

    return compare
