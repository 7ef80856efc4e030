"""What docs/own-pattern.md shows, works."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from vitruvius.patterns import parse, to_text
from vitruvius.spec import read_text

PAGE = (Path(__file__).resolve().parents[2] / "docs/own-pattern.md").read_text(encoding="utf-8")
PATTERNS = (Path(__file__).resolve().parents[2] / "docs/components/patterns.md").read_text(encoding="utf-8")

ENTRY_POINTS = "[vitruvius.patterns]\nlandmarks = my_patterns\n"
METADATA = "Metadata-Version: 2.1\nName: my-patterns\nVersion: 0.1\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_examples_of_the_page_give_what_they_show() -> None:
    examples = doctest.DocTestParser().get_doctest(PAGE, {}, "own-pattern.md", None, 0)
    outcome = doctest.DocTestRunner(verbose=False).run(examples)
    assert outcome.attempted >= 7
    assert outcome.failed == 0


def test_the_picture_of_the_page_is_the_one_that_is_drawn() -> None:
    drawn = to_text(parse("causal & where(q // 4 - k // 4 <= 1 or k % 4 == 3)"), 16)
    assert "\n".join(f"    {line}" for line in drawn.split("\n")) in PAGE


def test_every_pattern_in_the_table_of_ideas_can_be_read() -> None:
    table = PATTERNS[PATTERNS.index("| idea | written |") : PATTERNS.index("## The named patterns")]
    texts = [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", table)]
    sees = [text for text in texts if text not in {"|", "&"} and not text.endswith("(...)")]
    assert len(sees) == 12
    for text in sees:
        assert parse(text).clauses, text


def test_the_python_of_the_page_runs(python) -> None:
    done = python("\n".join(blocks("python")) + "\nprint(parse('causal & tree(depth=3)').pairs(7))")
    assert done.returncode == 0, done.stderr
    *drawn, same, pairs = done.stdout.split("\n")[:-1]
    assert "\n".join(f"    {line}" for line in drawn) in PAGE
    assert (same, pairs) == ("True", "17")


@pytest.fixture
def package(tmp_path) -> dict[str, str]:
    """The functions of the page as an installed package; where to find it."""
    code = "\n".join(blocks("python")[1:]).replace("print(", "str(")
    (tmp_path / "site" / "my_patterns-0.1.dist-info").mkdir(parents=True)
    (tmp_path / "site/my_patterns.py").write_text(code, encoding="utf-8")
    (tmp_path / "site/my_patterns-0.1.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site/my_patterns-0.1.dist-info/METADATA").write_text(METADATA)
    (entry,) = blocks("toml")
    assert 'entry-points."vitruvius.patterns"' in entry
    assert 'landmarks = "my_patterns"' in entry
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
def test_a_name_from_an_installed_package_works_on_the_command_line(vitruvius, package, tmp_path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "landmarks.yaml").write_text(text)
    given = ["landmarks.yaml"]
    ours = vitruvius("size", *given, "--json", env=package)
    theirs = vitruvius("size", *given, "--set", "blocks.layer.mixer.sees=causal & landmarks(64)", "--json", env=package)
    assert ours.returncode == theirs.returncode == 0, theirs.stderr
    bills = [json.loads(said.stdout) for said in (ours, theirs)]
    for bill in bills:
        del bill["next_experiment"]  # its command names the overrides
    assert bills[0] == bills[1]
    unknown = vitruvius("size", *given, "--set", "blocks.layer.mixer.sees=causal & landmrks(64)", env=package)
    assert unknown.returncode == 2
    assert "did you mean 'landmarks'?" in unknown.stderr


def test_the_spec_of_the_page_can_be_read() -> None:
    (text,) = blocks("yaml")
    architecture = read_text(text).architecture
    assert f"causal & {architecture.blocks['layer'].mixer.sees.split(' & ', 1)[1]}" in PAGE.split("```yaml")[0]


@pytest.mark.slow
def test_the_journey_of_the_page_runs_command_by_command(vitruvius, tmp_path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "landmarks.yaml").write_text(text)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines]
    assert [argv[0] for argv in commands] == ["show", "size", "size", "check", "data", "train", "generate"]
    for argv in commands:
        short = ["4" if before == "--steps" else word for before, word in zip(["", *argv], argv, strict=False)]
        done = vitruvius(*short)
        assert done.returncode == 0, (argv, done.stderr)
    assert (tmp_path / "runs/landmarks/run.json").is_file()
