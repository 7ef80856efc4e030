"""Pages that code and other pages point to exist, and exit codes are the documented ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitruvius import errors

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_pages_that_the_code_names_exist() -> None:
    for source in sorted(ROOT.glob("src/**/*.py")):
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{source.relative_to(ROOT)} names {name}"


def test_every_exit_code_of_an_error_is_documented() -> None:
    table = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VitruviusError)
    ]
    assert {kind.exit_code for kind in kinds} <= documented
