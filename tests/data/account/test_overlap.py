"""What validation shares with training: held against sets of tuples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.account import overlap as module
from vitruvius.data.account import tokens as token_module
from vitruvius.data.account.folder import PreparedFolder
from vitruvius.data.account.overlap import Overlap, default_ngram
from vitruvius.data.account.tokens import document_blocks
from vitruvius.data.packing.index import shard_of
from vitruvius.data.packing.writing import SplitWriter

EOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 3), max_size=12), min_size=1, max_size=8)


def written(folder, split, documents, shard_tokens):
    folder.mkdir(exist_ok=True)
    writer = SplitWriter(folder, split, vocab_size=10, shard_tokens=shard_tokens)
    for document in documents:
        writer.add([*document, EOS], text_bytes=len(document))
    return tuple(shard_of(folder, entry) for entry in writer.close()["shards"])


def measured(folder, train, validation, ngram, shard_tokens=20):
    shape = {"dtype": "<u2", "vocab_size": 10}
    overlap = Overlap(written(folder, "validation", validation, shard_tokens), **shape, ngram=ngram)
    for shard in written(folder, "train", train, shard_tokens):
        for tokens, lengths in document_blocks(shard, **shape):
            overlap.see(tokens, lengths)
    return overlap.summary(bytes_per_token=1.0)


def grams(document, ngram):
    return [tuple(document[i : i + ngram]) for i in range(len(document) - ngram + 1)]


@given(DOCUMENTS, DOCUMENTS, st.integers(1, 5), st.integers(1, 40))
def test_shared_ngrams_and_equal_documents_are_those_that_sets_find(tmp_path_factory, train, validation, ngram, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_module, "BLOCK_TOKENS", block)
        found = measured(tmp_path_factory.mktemp("x"), train, validation, ngram)
    known = {gram for document in train for gram in grams(document, ngram)}
    equal = {tuple(document) for document in train}
    pairs = [(len(grams(one, ngram)), sum(gram in known for gram in grams(one, ngram))) for one in validation]
    assert found["documents_examined"] == found["documents"] == len(validation)
    assert found["documents_identical_in_train"] == sum(tuple(one) in equal for one in validation)
    assert found["ngrams"] == sum(total for total, _ in pairs)
    assert found["ngrams_in_train"] == sum(hits for _, hits in pairs)
    assert found["documents_too_short"] == sum(not total for total, _ in pairs)
    assert found["documents_without_overlap"] == sum(bool(total) and not hits for total, hits in pairs)
    assert found["documents_covered"] == sum(bool(total) and hits == total for total, hits in pairs)
    bins = [0] * 10
    for total, hits in pairs:
        if total:
            bins[min(9, 10 * hits // total)] += 1
    assert [row["documents"] for row in found["documents_by_share"]] == bins
    order = sorted(range(len(pairs)), key=lambda i: (-(pairs[i][1] / (pairs[i][0] or 1)), -pairs[i][0], i))
    worst = [i for i in order if pairs[i][1]][:10]
    assert [row["document"] for row in found["worst"]] == worst
    assert [row["share"] for row in found["worst"]] == [pairs[i][1] / pairs[i][0] for i in worst]


def test_no_ngram_reaches_over_a_separator(tmp_path):
    found = measured(tmp_path, [[1, 2], [3, 4]], [[2, 3]], 2)
    assert found["ngrams_in_train"] == 0


def test_a_large_validation_split_is_sampled_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_NGRAMS", 2000)
    rng = np.random.default_rng(0)
    validation = [rng.integers(1, 9, 9).tolist() for _ in range(1000)]
    found = measured(tmp_path, validation[:500], validation, 4, shard_tokens=10**6)
    assert found["sampled"]
    # 10,000 tokens and room for 2,000: about every fifth document, of which half are in training.
    assert 120 < found["documents_examined"] < 280
    assert 0.35 < found["documents_identical_in_train"] / found["documents_examined"] < 0.65


def test_ngrams_span_as_much_text_whatever_the_vocabulary():
    assert default_ngram(1.0) == 65
    assert default_ngram(4.4) == 15
    assert default_ngram(40.0) == 8
    assert default_ngram(None) == 13


def test_a_leaked_document_is_found_by_its_id(folder):
    from vitruvius.data.account.statistics import statistics

    found = statistics(folder)["overlap"]
    assert found["documents_identical_in_train"] == 1
    assert found["worst"][0] | {"ngrams": 0} == {"document": 5, "id": "code/leaked.py", "share": 1.0, "ngrams": 0}
    assert PreparedFolder(folder).index["splits"]["validation"]["documents"] == 6
