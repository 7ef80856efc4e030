"""`make` installs once and says what is wrong; a test whose program is missing is skipped or fails, as it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on PATH")

# Stands in for the interpreter that the user names, and for the one in the environment that it makes: it writes down
# what it was asked to do instead of doing it.
FAKE_PYTHON = r"""#!/bin/sh
case "$*" in
    --version) echo "Python $(cat "$LAB/version")" ;;
    "-m venv"*)
        mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$0" "$4/bin/vitruvius"; echo venv >>"$LAB/log" ;;
    -c*sys.exit*) case "$(cat "$LAB/version")" in 3.[0-9].*|3.10.*) exit 1 ;; esac ;;
    -c*sys.version*) cat "$LAB/version" ;;
    -c*torch*) echo "torch 2.13.0 on CPU, 2 threads" ;;
    "-m pip"*) echo "$*" >>"$LAB/log"; [ ! -e "$LAB/broken" ] ;;
    *) echo "$*" >>"$LAB/log" ;;
esac
"""

PIP = "-m pip install --quiet -c constraints.txt -e"


class Lab:
    """A checkout with a fake Python in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.write("version", "3.12.1")
        self.write("log", "")
        python = self.write("fake-python", FAKE_PYTHON)
        python.chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def make(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run make; PATH finds the fake as `python3`, and variables of an outer make do not reach in."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        shutil.copy(self.folder / "fake-python", tools / "python3")
        outer = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "PIP_ARGS", "VENV", "ARGS", "SEED")
        env = {name: value for name, value in os.environ.items() if name not in outer}
        env |= {"LAB": str(self.folder), "PATH": f"{tools}:{os.environ['PATH']}"}
        return subprocess.run(["make", *args], cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def asked(self) -> list[str]:
        """What the fake was asked to do since the last time."""
        lines = (self.folder / "log").read_text(encoding="utf-8").splitlines()
        self.write("log", "")
        return lines


ALL_TESTS = "-m pytest -n 2 --dist worksteal -m not gpu"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@needs_make
def test_make_alone_says_one_line_for_each_target_and_installs_nothing(lab):
    done = lab.make()
    for target in ("demo", "test", "test-fast", "check", "fuzz", "bench", "clean", "help"):
        assert f"make {target} " in done.stdout
    assert (done.returncode, lab.asked()) == (0, [])


@needs_make
def test_make_test_installs_run_and_dev_once_and_says_which_torch_it_got(lab):
    done = lab.make("test")
    assert lab.asked() == ["venv", f"{PIP} .[run,data,cluster,optim,watch,deepspeed,dev]", ALL_TESTS]
    assert "torch 2.13.0 on CPU, 2 threads" in done.stdout
    lab.make("test-fast", "ARGS=-x")
    assert lab.asked() == ["-m pytest -n 2 --dist worksteal --cases 1 -m not (gpu or slow or browser or server) -x"]


@needs_make
def test_the_demo_installs_run_only_and_is_content_with_what_the_tests_installed(lab):
    lab.make("demo")
    assert lab.asked() == ["venv", f"{PIP} .[run]", "demo --out demo"]
    lab.make("demo")
    assert lab.asked() == ["demo --out demo"]
    lab.make("test")
    assert lab.asked() == [f"{PIP} .[run,data,cluster,optim,watch,deepspeed,dev]", ALL_TESTS]
    lab.make("demo")
    assert lab.asked() == ["demo --out demo"]


@needs_make
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "version"])
def test_pip_runs_again_when_what_it_installs_changes(name, lab):
    lab.make("test")
    lab.asked()
    lab.write(name, "3.12.2" if name == "version" else "# changed\n")
    lab.make("test")
    assert lab.asked()[0] == f"{PIP} .[run,data,cluster,optim,watch,deepspeed,dev]"


@needs_make
def test_an_install_that_failed_is_tried_again(lab):
    broken = lab.write("broken", "")
    done = lab.make("test")
    assert done.returncode != 0
    assert lab.asked() == ["venv", f"{PIP} .[run,data,cluster,optim,watch,deepspeed,dev]"]
    broken.unlink()
    assert lab.make("test").returncode == 0
    assert lab.asked() == [f"{PIP} .[run,data,cluster,optim,watch,deepspeed,dev]", ALL_TESTS]


@needs_make
def test_pip_args_reach_pip_and_do_not_install_again_by_themselves(lab):
    lab.make("test", "PIP_ARGS=--index-url https://example.org/cpu")
    assert (
        lab.asked()[1] == "-m pip install --quiet --index-url https://example.org/cpu"
        " -c constraints.txt -e .[run,data,cluster,optim,watch,deepspeed,dev]"
    )
    lab.make("test")
    assert lab.asked() == [ALL_TESTS]


@needs_make
def test_an_old_python_is_refused_with_the_way_out(lab):
    lab.write("version", "3.10.13")
    done = lab.make("test")
    assert done.returncode != 0
    assert "error: Vitruvius needs Python 3.11 or newer; python3 is Python 3.10.13" in done.stderr
    assert "fix: make PYTHON=python3.12 test" in done.stderr
    assert lab.asked() == []


@needs_make
def test_a_seed_repeats_a_fuzzing_run(lab):
    lab.make("fuzz", "SEED=7")
    assert lab.asked()[-1] == "-m pytest -m not (gpu or slow or browser or server) --hypothesis-seed=7"


# ----------------------------------------------------------------------------------------------------------------------
# Markers

# The marker is not written out: `.ci/run` looks for it to learn whether a browser is worth installing.
NEEDY = f"""
import pytest

@pytest.mark.{"browser"}
def test_that_drives_a_browser():
    pass
"""


@pytest.fixture
def pytest_without_programs(tmp_path):
    """Run a test that needs a browser, with our conftest, where PATH is empty."""
    for path in (ROOT / "pyproject.toml", ROOT / "tests" / "conftest.py"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_needy.py").write_text(NEEDY, encoding="utf-8")
    (tmp_path / "conftest.py").rename(tmp_path / "tests" / "conftest.py")

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("VITRUVIUS_", "PYTEST_"))}
        return subprocess.run(
            [sys.executable, "-m", "pytest", *args],
            cwd=tmp_path,
            env=clean | {"PATH": ""} | env,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_missing_program_is_a_skip_that_says_why(pytest_without_programs):
    done = pytest_without_programs()
    assert done.returncode == 0
    assert "no headless browser (chromium, chromium-browser, google-chrome) on PATH" in done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]


def test_a_missing_program_fails_where_it_is_required(pytest_without_programs):
    done = pytest_without_programs(VITRUVIUS_REQUIRE="browser,server")
    assert done.returncode == 1
    assert "no headless browser" in done.stdout and "VITRUVIUS_REQUIRE names browser" in done.stdout


@pytest.mark.slow
def test_fuzzing_prints_the_seed_that_repeats_it(pytest_without_programs):
    assert "repeat with: make fuzz SEED=" in pytest_without_programs(VITRUVIUS_HYPOTHESIS="fuzz").stdout
    assert "repeat with: make fuzz SEED=7" in pytest_without_programs(
        "--hypothesis-seed=7", VITRUVIUS_HYPOTHESIS="fuzz"
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(9, 3, [0, 4, 8]), (2, 3, [0, 1]), (5, 1, [0]), (0, 3, []), (4, 2, [0, 3])]
)
def test_fewer_cases_are_spread_over_all_of_them(count, most, kept, pytestconfig):
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    assert conftest.spread(list(range(count)), most) == kept
