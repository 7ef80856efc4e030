"""What every test may rely on: markers that skip or fail, one hypothesis profile, a quiet environment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]

# Before anything imports a library that reads them: no test reaches for a network, and no library talks about forks.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
# One thread: tensors here are small, threads that wait for each other are slow on a busy machine, and bits stay equal.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", VITRUVIUS_SHAPES="check")
# PYTHONUNBUFFERED would lose the rest of what a script prints where a signal breaks the write off.
for name in ("NO_COLOR", "FORCE_COLOR", "VITRUVIUS_TRACEBACK", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)
# A shell without job control starts what is in the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    settings.get_profile("ci"),
    derandomize=False,
    max_examples=int(os.environ.get("VITRUVIUS_FUZZ_EXAMPLES", "1000")),
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure(config: pytest.Config) -> None:
    """Load the hypothesis profile: `ci`, or `fuzz` with a seed that is printed and can be given back."""
    profile = os.environ.get("VITRUVIUS_HYPOTHESIS", "ci")
    settings.load_profile(profile)
    if profile == "fuzz" and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cases N`: of a test with more parametrized cases than N, run N spread over all of them."""
    parser.addoption("--cases", type=int, default=None, metavar="N", help="run at most N cases of each test")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--cases` does not ask for; pytest reports how many."""
    most = config.getoption("--cases")
    if most is None:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {id(item) for found in cases.values() for item in spread(found, most)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


def spread(found: Sequence[T], most: int) -> list[T]:
    """At most `most` of these, the first and the last among them, at equal distances."""
    if len(found) <= most:
        return list(found)
    if most == 1:
        return [found[0]]
    return [found[round(number * (len(found) - 1) / (most - 1))] for number in range(most)]


def pytest_report_header(config: pytest.Config) -> str | None:
    """The line that repeats a fuzzing run."""
    seed = config.getoption("--hypothesis-seed", None)
    return None if seed is None else f"fuzzing; repeat with: make fuzz SEED={seed}"


# ----------------------------------------------------------------------------------------------------------------------
# Programs and devices that a test needs


def _missing_browser() -> str:
    return "" if any(map(shutil.which, BROWSERS)) else f"no headless browser ({', '.join(BROWSERS)}) on PATH"


def _missing_server() -> str:
    import socket

    try:
        with socket.create_server(("127.0.0.1", 0)):
            return ""
    except OSError as error:
        return f"cannot listen on 127.0.0.1 ({error.strerror})"


def _missing_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device"


NEEDS: dict[str, Callable[[], str]] = {"browser": _missing_browser, "server": _missing_server, "gpu": _missing_gpu}
"""Marker -> what is missing for it on this machine, in words; empty where nothing is."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is missing, with the reason; fail it where VITRUVIUS_REQUIRE says it must run."""
    required = {name.strip() for name in os.environ.get("VITRUVIUS_REQUIRE", "").split(",")}
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            if marker in required:
                pytest.fail(f"{reason}, and VITRUVIUS_REQUIRE names {marker}", pytrace=False)
            pytest.skip(reason)


# ----------------------------------------------------------------------------------------------------------------------
# Fixtures


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: what a test needs that compares bits or a golden loss."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def vitruvius(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user does, in a process of its own: `vitruvius("size", "llama-moe", "--json")`.

    The working folder is the test's own, stdin is empty, and stdout and stderr come back as text.
    """

    def call(
        *args: str, cwd: Path = tmp_path, env: dict[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vitruvius", *args],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def python() -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a few lines of Python in a fresh interpreter, where nothing is imported yet."""

    def call(code: str, *args: str) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, "-c", code, *args]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
        )

    return call
