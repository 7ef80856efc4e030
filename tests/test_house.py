"""The rules of the house: what importing costs, which floor may import which, and what never stands in a file."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import vitruvius

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DESIGN_HALF = ("errors", "units", "patterns", "spec", "runs", "sizing", "data", "report")

HEAVY = ("click", "numpy", "pydantic", "rich", "tokenizers", "torch", "transformers", "yaml")

BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "numpy"}:
            raise ImportError(f"{name} must not be imported by the design half")

sys.meta_path.insert(0, Blocker())
"""
"""Makes the import of what the base install lacks raise."""


def _modules(package: str) -> list[str]:
    """The dotted names of `package` and of everything below it, found without importing it."""
    home = ROOT / "src" / "vitruvius" / package
    if not home.is_dir():
        return [f"vitruvius.{package}"] if home.with_suffix(".py").is_file() else []
    files = (path.relative_to(ROOT / "src").with_suffix("") for path in home.rglob("*.py"))
    return sorted(".".join(part for part in path.parts if part != "__init__") for path in files)


# ----------------------------------------------------------------------------------------------------------------------
# Imports


def test_importing_vitruvius_imports_nothing_else(python):
    code = f"import sys, vitruvius; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_every_module_of_the_design_half_imports_where_importing_torch_raises(python):
    names = [name for part in DESIGN_HALF for name in _modules(part)]
    assert {"vitruvius.errors", "vitruvius.units", "vitruvius.patterns", "vitruvius.spec"} <= set(names)
    done = python(BLOCKER + f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_verbs_of_the_design_half_run_where_importing_torch_raises(python):
    code = BLOCKER + "from vitruvius.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    for argv in (["presets"], ["show", "llama-moe"], ["size", "llama-moe", "--json"], ["schema"]):
        done = python(code, *argv)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_imports_go_downwards_only_and_every_folder_has_its_floor():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_public_names_is_what_the_package_says_it_exports():
    assert set(vitruvius.__all__) == {*vitruvius._HOME, "__version__"}
    assert set(vitruvius.__all__) <= set(dir(vitruvius))


def test_every_public_name_is_callable_after_every_subpackage_was_imported():
    # A public function named like a subpackage would be replaced by the module that Python binds on import.
    for module in pkgutil.iter_modules(vitruvius.__path__):
        if module.name != "__main__":
            importlib.import_module(f"vitruvius.{module.name}")
    for name in vitruvius._HOME:
        assert find_spec(f"vitruvius.{name}") is None, f"vitruvius.{name} is a function and a module"
        value = getattr(vitruvius, name)
        assert callable(value) and not isinstance(value, ModuleType), name


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sise'"):
        vitruvius.sise  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


# ----------------------------------------------------------------------------------------------------------------------
# Files

_PICKLE = re.compile(
    r"\b(?:import|from)\s+(?:\w*pickle|dill|joblib|shelve|marshal)\b|torch\.(?:load|save)\(|allow_pickle"
)
_UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_is_pickled_and_nothing_is_left_unfinished(path):
    text = path.read_text(encoding="utf-8")
    assert not _PICKLE.findall(text), "checkpoints are safetensors and JSON; a pickle runs code"
    assert not _UNFINISHED.findall(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_are_short_enough_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450, "a file is one room: about 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_a_warning_of_ours_is_an_error_and_one_of_a_dependency_is_not():
    with warnings.catch_warnings(record=True) as theirs:
        for module in ("torch.nn", "vitruvius_extras"):
            warnings.warn_explicit("theirs", UserWarning, "file.py", 1, module=module)
        for module in ("vitruvius", "vitruvius.nn.block"):
            with pytest.raises(UserWarning, match="ours"):
                warnings.warn_explicit("ours", UserWarning, "file.py", 1, module=module)
    assert len(theirs) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Packaging


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins), "exact public versions only"
    return {_normal(name): version for name, version in (pin.split("==") for pin in pins)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_choose_no_build_of_torch():
    assert not [name for name in _constraints() if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_requirement_of_run_and_dev_is_pinned_inside_its_range():
    project, pins = PROJECT["project"], _constraints()
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["run"], *extras["dev"]):
        requirement = Requirement(text)
        assert pins[_normal(requirement.name)] in requirement.specifier, text


def test_an_extra_that_names_another_extra_names_one_that_exists():
    extras = PROJECT["project"]["optional-dependencies"]
    named = [Requirement(text) for group in extras.values() for text in group if text.startswith("vitruvius")]
    assert {extra for requirement in named for extra in requirement.extras} <= set(extras)
