"""Connected components of candidates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.dedup.components import Components, Labels
from vitruvius.data.dedup.groups import MATCHED, MEMBER
from vitruvius.data.job.job import Job
from vitruvius.data.job.kept import ROW

if TYPE_CHECKING:
    import pytest

SIZES = (3, 0, 5, 4)
KEYS = [unit << 32 | row for unit, size in enumerate(SIZES) for row in range(size)]
PAIRS = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)), max_size=20)


@given(st.lists(PAIRS, max_size=3))
def test_documents_have_one_label_if_and_only_if_pairs_connect_them(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[int, int]]]
):
    job = Job(tmp_path_factory.mktemp("job"))
    job.__dict__["plan"] = SimpleNamespace(units=tuple(range(len(SIZES))))
    for unit, size in enumerate(SIZES):
        job.path("read", unit).with_suffix(".rows").write_bytes(np.zeros(size, dtype=ROW).tobytes())
    for number, pairs in enumerate(files):
        records = np.array([(0, max(pair), min(pair)) for pair in pairs], dtype=MEMBER)
        job.path(MATCHED, number).with_suffix(".members").write_bytes(records.tobytes())
    summary = Components().run(job, 0)

    found = {key: {key} for key in KEYS}
    for a, b in (pair for pairs in files for pair in pairs):
        if found[a] is not found[b]:
            found[a] |= found[b]
            for key in found[b]:
                found[key] = found[a]
    hashes = dict(zip(KEYS, Labels(job).hashes(np.array(KEYS, dtype="u8")).tolist(), strict=True))
    for a in KEYS:
        assert {b for b in KEYS if hashes[a] == hashes[b]} == found[a]
    assert summary == {"documents": len(KEYS), "components": len({id(group) for group in found.values()})}
