"""Memory of the statistics does not grow with the number of documents."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

MEASURE = """
import re, sys
from pathlib import Path
from vitruvius.data.account.statistics import statistics
found = statistics(sys.argv[1])
assert found["whole"]["documents"] == int(sys.argv[2]), found["whole"]
# Of this program alone: what getrusage says begins with the size of its parent.
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_twenty_times_the_documents_take_the_same_memory(make):
    def peak_kib(documents):
        ids = np.arange(documents)
        train = [(f"file-{i % 100}.jsonl@{i}", "the quick", "all", f"https://h{i % 5000}.org/") for i in ids]
        dropped = [
            {"id": f"d{i}", "reason": "near_duplicate", "keeper": f"k{i // 3}", "jaccard": 0.9}
            for i in range(documents)
        ]
        folder = make(f"of-{documents}", train=train, validation=train[:50], dropped=dropped, shard_tokens=10**9)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder), str(documents + 50)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many = peak_kib(2_500), peak_kib(50_000)
    # A dictionary for each of the 95,000 rows more would be 20 MiB at least.
    assert many - few < 8 * 1024
