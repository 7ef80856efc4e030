"""Memory does not grow with the corpus."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, random, sys
from pathlib import Path
from types import SimpleNamespace
from vitruvius.data.dedup.components import ComponentSort, Components
from vitruvius.data.dedup.dropped import Dropped
from vitruvius.data.dedup.exact import ExactMatch, ExactSort
from vitruvius.data.dedup.groups import BandMatch, BandSort
from vitruvius.data.dedup.settings import NearSettings
from vitruvius.data.dedup.signing import Signer
from vitruvius.data.dedup.verify import NearMatch
from vitruvius.data.document import Document
from vitruvius.data.job.job import Job
from vitruvius.data.job.kept import KeptWriter, suffixes

os.fsync = lambda file: None
folder, units, per_unit, shape = Path(sys.argv[1]), int(sys.argv[2]), 500, sys.argv[3]
job = Job(folder)
job.__dict__["plan"] = SimpleNamespace(units=tuple(range(units)))
settings = NearSettings(bands=8, rows=4)
signer = Signer(settings)
rng = random.Random(0)


def text(number):
    if shape == "identical":
        return "the same text again and again"
    if shape == "copies of one":
        return " ".join([*map(str, range(40)), f"n{number // 200} m{number % 200}", *map(str, range(40, 80))])
    words = [f"{rng.getrandbits(13):x}" for _ in range(30)]
    if number % 3 == 1:
        words = last[0][:29] + ["changed"]
    last[0] = words
    return " ".join(words)


last = [[]]
for unit in range(units):
    with job.publishing_all(job.path("read", unit), suffixes(signed=True)) as files:
        writer = KeptWriter(files, seed=0, sign=signer.sign)
        for row in range(per_unit):
            name = f"{unit:05}-{row:05}"
            writer.keep(Document(id=name, file=name, line=None, byte_offset=0, text=text(unit * per_unit + row)))
small = 1 << 12
found = 0
for stage in (ExactSort(), ExactMatch(partition=small), BandSort(settings), BandMatch(partition=small), Components(),
              ComponentSort(), NearMatch(settings, partition=small)):
    for task in range(stage.tasks(job)):
        stage.run(job, task)
for unit in range(units):
    found += len(Dropped.of_unit(job, unit))
# Not ru_maxrss: that begins with the memory of the process that started this one.
print(found, int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024)
"""


def peak(folder: Path, units: int, shape: str) -> tuple[int, int]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(units), shape], capture_output=True, text=True, check=True
    )
    found, rss = done.stdout.split()
    return int(found), int(rss)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the highest memory of a process is in /proc")
@pytest.mark.parametrize("shape", ["different", "identical", "copies of one"])
def test_memory_does_not_grow_with_the_documents(tmp_path: Path, shape: str):
    """Eight times the documents, with partitions of 4,096: what they hold would grow by tens of megabytes."""
    few, low = peak(tmp_path / "few", 8, shape)
    many, high = peak(tmp_path / "many", 64, shape)
    assert many > 7 * few
    assert high - low < 12e6
