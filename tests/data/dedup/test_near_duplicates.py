"""Near duplicates: the rule, held against a brute-force reading of it; any order, any partition."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.dedup import candidates, components, groups, runs
from vitruvius.data.dedup.components import Components, ComponentSort
from vitruvius.data.dedup.exact import ExactMatch, ExactSort
from vitruvius.data.dedup.groups import BandMatch, BandSort
from vitruvius.data.dedup.sets import ShingleSets
from vitruvius.data.dedup.settings import DedupSettings, NearSettings
from vitruvius.data.dedup.shingles import jaccard, shingles
from vitruvius.data.dedup.signing import Signer
from vitruvius.data.dedup.stages import stages
from vitruvius.data.dedup.verify import NearMatch

EVERY_PAIR = {"bands": 256, "rows": 1}
"""Two texts of similarity s share none of 256 minima with probability (1 - s)**256: never, for s of a threshold."""


def small_stages(settings: NearSettings, partition: int) -> tuple[Any, ...]:
    """All stages, with partitions so small that there are many."""
    return (
        ExactSort(),
        ExactMatch(partition=partition),
        BandSort(settings),
        BandMatch(partition=partition * settings.bands),
        Components(),
        ComponentSort(),
        NearMatch(settings, partition=partition * settings.bands),
    )


def ngrams(text: str, n: int) -> frozenset[tuple[str, ...]]:
    words = re.findall("[a-z0-9]+", text.lower())
    return frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))) if words else frozenset()


def similarity(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def brute_force(documents: list[tuple[str, str]], settings: NearSettings) -> dict[str, tuple[str, str, float]]:
    """The rule as it is written, over all pairs that share a band."""
    signer = Signer(settings)
    first: dict[str, str] = {}
    for file, text in sorted(documents):
        first.setdefault(text, file)
    ranked = sorted(first, key=lambda text: (-len(text), hashlib.sha256(text.encode()).digest()))
    kept_by_band: dict[int, list[str]] = {}
    fate: dict[str, tuple[str, float]] = {}
    for text in ranked:
        own = ngrams(text, settings.ngram)
        bands = [band for band in signer.sign(text).tolist() if band]
        keepers = {one for band in bands for one in kept_by_band.get(band, [])[: settings.keepers]}
        alike = [(-similarity(own, ngrams(one, settings.ngram)), ranked.index(one)) for one in keepers]
        best = min(alike, default=(0.0, 0))
        if -best[0] >= settings.threshold:
            fate[text] = (first[ranked[best[1]]], -best[0])
        else:
            for band in bands:
                kept_by_band.setdefault(band, []).append(text)
    found: dict[str, tuple[str, str, float]] = {}
    for file, text in documents:
        if text in fate:
            found[file] = ("near", *fate[text])
        elif first[text] != file:
            found[file] = ("exact", first[text], 1.0)
    return found


def chunks(items: list[Any], sizes: list[int]) -> list[list[Any]]:
    units, start = [], 0
    while start < len(items):
        size = sizes[len(units) % len(sizes)]
        units.append(items[start : start + size])
        start += size
    return units or [[]]


@st.composite
def corpora(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Texts over few words, many of them edits of each other."""
    rng = draw(st.randoms(use_true_random=False))
    texts: list[list[str]] = []
    for _ in range(draw(st.integers(0, 14))):
        if texts and rng.random() < 0.75:
            words = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                place = rng.randrange(len(words) + 1)
                words[place : place + rng.randrange(3)] = rng.choices("abcdefgh", k=rng.randrange(3))
        else:
            words = rng.choices("abcdefgh", k=rng.randrange(1, 30))
        texts.append(words or ["empty"])
    documents = [(f"f{number:02}", " ".join(words)) for number, words in enumerate(texts)]
    rng.shuffle(documents)
    return documents


# ----------------------------------------------------------------------------------------------------------------------
# The rule


@given(
    corpora(),
    st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 1.0]),
    st.integers(1, 4),
    st.lists(st.integers(0, 5), min_size=1).filter(any),
    st.integers(3, 30),
)
def test_the_result_is_that_of_the_rule_over_all_pairs(find, documents, threshold, ngram, sizes, partition):
    settings = NearSettings(threshold=threshold, ngram=ngram, **EVERY_PAIR)
    found = find(
        chunks(documents, sizes), DedupSettings(exact="text", near=settings), small_stages(settings, partition)
    )
    assert found == brute_force(documents, settings)


@given(corpora(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**63 - 1))
def test_the_result_is_that_of_the_rule_where_bands_miss_pairs_and_groups_are_limited(
    find, documents, bands, rows, keepers, seed
):
    settings = NearSettings(threshold=0.4, ngram=1, bands=bands, rows=rows, keepers=keepers, seed=seed)
    found = find(chunks(documents, [4]), DedupSettings(exact="text", near=settings))
    assert found == brute_force(documents, settings)


@settings(max_examples=20)
@given(corpora(), st.randoms(use_true_random=False))
def test_order_and_partition_change_nothing(find, documents, rng):
    settings = NearSettings(threshold=0.5, ngram=2, bands=8, rows=2)
    both = DedupSettings(exact="text", near=settings)
    expected = find([documents], both)
    for partition in (5, 1000):
        shuffled = list(documents)
        rng.shuffle(shuffled)
        units = chunks(shuffled, [rng.randrange(1, 6), rng.randrange(6)])
        assert find(units, both, small_stages(settings, partition)) == expected


@pytest.mark.slow
@given(corpora())
def test_nobody_is_dropped_unverified_or_for_someone_who_is_dropped(find, documents):
    settings = NearSettings(threshold=0.6, ngram=2, bands=20, rows=1)
    found = find(chunks(documents, [3]), DedupSettings(exact="text", near=settings))
    texts = dict(documents)
    for file, (kind, keeper, alike) in found.items():
        assert keeper not in found
        true = similarity(ngrams(texts[file], 2), ngrams(texts[keeper], 2))
        assert true == alike >= 0.6
        assert (kind == "exact") == (texts[file] == texts[keeper])
        assert len(texts[keeper]) >= len(texts[file])


def test_segments_and_pieces_of_files_change_nothing(find, monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(3)
    base = [[f"w{rng.randrange(3000)}" for _ in range(60)] for _ in range(40)]
    documents = []
    for number in range(160):
        words = list(base[number % 40])
        words[rng.randrange(60)] = f"n{number}"
        documents.append((f"f{number:03}", " ".join(words)))
    settings = NearSettings(threshold=0.6)
    both = DedupSettings(exact="text", near=settings)
    expected, sums = find.with_sums(chunks(documents, [50]), both)
    assert 90 < len(expected) <= 120
    monkeypatch.setattr(runs, "SEGMENT", 17)
    for module in (components, candidates, groups):
        monkeypatch.setattr(module, "_CHUNK", 13)
    assert find.with_sums(chunks(documents, [50]), both, small_stages(settings, 3))[0] == expected
    assert sums[-1]["duplicates"] == len(expected)


# ----------------------------------------------------------------------------------------------------------------------
# What follows from it


def sentence(number: int, words: int = 60) -> list[str]:
    rng = random.Random(number)
    return [f"w{rng.getrandbits(40):x}" for _ in range(words)]


def near_settings(**changes: Any) -> DedupSettings:
    return DedupSettings(exact="text", near=NearSettings(**changes))


def test_a_chain_of_edits_is_not_dropped_for_its_first_link(find):
    """a is like b and b like c, but a is not like c: b goes for a, and c stays."""
    a = sentence(1, 64)
    b = [*a[:60], "x"]
    c = [*a[:56], "y"]
    texts = {"a": " ".join(a), "b": " ".join(b), "c": " ".join(c)}
    grams = {name: ngrams(text, 5) for name, text in texts.items()}
    assert similarity(grams["a"], grams["b"]) >= 0.9 > similarity(grams["a"], grams["c"])
    found = find([list(texts.items())], near_settings(threshold=0.9, bands=60, rows=2))
    assert set(found) == {"b"}
    assert found["b"][:2] == ("near", "a")


def test_k_copies_cost_k_comparisons(find):
    base = sentence(2, 200)
    documents = []
    for number in range(300):
        words = list(base)
        words[100] = f"copy{number:05}"
        documents.append((f"f{number:03}", " ".join(words)))
    found, sums = find.with_sums(chunks(documents, [40]), near_settings())
    assert len(found) == 299
    assert len({keeper for _, keeper, _ in found.values()}) == 1
    assert sums[-1] == {"candidates": 300, "comparisons": 299, "not_compared": 0, "duplicates": 299}


def test_boilerplate_costs_a_bounded_number_of_comparisons_and_drops_nobody(find):
    """Half of each page is the same: every page shares bands with every other, and none is a near duplicate."""
    shared = sentence(3, 120)
    documents = [(f"f{number:03}", " ".join([*shared, *sentence(100 + number, 90)])) for number in range(250)]
    bands, keepers = 20, 3
    found, sums = find.with_sums(chunks(documents, [60]), near_settings(bands=bands, rows=2, keepers=keepers))
    assert found == {}
    assert sums[-1]["comparisons"] <= 250 * bands * keepers
    unlimited = find.with_sums(chunks(documents, [60]), near_settings(bands=bands, rows=2, keepers=1000))[1]
    assert unlimited[-1]["not_compared"] == 0 < sums[-1]["not_compared"]
    assert unlimited[-1]["comparisons"] > 2 * sums[-1]["comparisons"]


def test_copies_among_boilerplate_are_found_past_the_limit_where_another_band_is_theirs_alone(find):
    shared = sentence(4, 60)
    documents = [(f"f{number:03}", " ".join([*shared, *sentence(500 + number, 100)])) for number in range(120)]
    twin = documents[77][1].split()
    twin[100] = "changed"
    found = find([[*documents, ("twin", " ".join(twin))]], near_settings(keepers=1))
    assert list(found) in (["twin"], ["f077"])


def test_an_exact_copy_of_a_near_duplicate_names_the_document_that_stays(find):
    long = sentence(5, 100)
    near = [*long[:50], *long[52:]]
    documents = [
        ("copy", " ".join(near)),
        ("kept", " ".join(long)),
        ("again", " ".join(near)),
        ("twin", " ".join(long)),
    ]
    found = find(chunks(documents, [1]), near_settings())
    jaccard = similarity(ngrams(" ".join(long), 5), ngrams(" ".join(near), 5))
    assert found == {
        "again": ("near", "kept", jaccard),
        "copy": ("near", "kept", jaccard),
        "twin": ("exact", "kept", 1.0),
    }


@pytest.mark.parametrize("longer", ["a", "b"])
def test_of_equally_similar_documents_the_first_by_rank_is_named(find, longer: str):
    extra = {"a": "k1 k2 k3 k4", "b": "m1 m2 m3 m4"}
    extra[longer] += "long"
    documents = [
        ("a", f"w3 w4 w5 w6 w7 w8 {extra['a']}"),
        ("b", f"w1 w2 w3 w4 w5 w6 {extra['b']}"),
        ("c", "w1 w2 w3 w4 w5 w6 w7 w8"),
    ]
    for some in itertools.permutations(documents):
        assert find([some], near_settings(threshold=0.5, ngram=1, bands=100, rows=1)) == {"c": ("near", longer, 0.5)}


def test_exactly_at_the_threshold_is_a_duplicate(find):
    a = sentence(6, 49)
    b = list(a)
    b[24] = "other"
    pair = [("a", " ".join(a)), ("b", " ".join(b))]
    assert similarity(*(ngrams(text, 5) for _, text in pair)) == 40 / 50
    assert len(find([pair], near_settings(threshold=0.8, bands=80, rows=2))) == 1
    assert find([pair], near_settings(threshold=0.8000001, bands=80, rows=2)) == {}


def test_short_texts_texts_of_punctuation_and_other_scripts_have_their_stated_fate(find):
    documents = [
        ("1", "Hello, world!"),
        ("2", "hello world"),
        ("3", "hello worlds"),
        ("4", "... --- ..."),
        ("5", "...   ---\n..."),
        ("6", "... ..."),
        ("7", "東京は日本の首都であり、世界最大級の都市です。人口は約千四百万人です。"),
        ("8", "東京は日本の首都であり世界最大級の都市です 人口は約千四百万人です"),
        ("9", "大阪は日本の都市であり、西日本の中心です。人口は約二百七十万人です。"),
        ("10", "\u200b"),
        ("11", "\u200b\n"),
    ]
    found = find([documents], near_settings())
    assert {frozenset((file, keeper)) for file, (_, keeper, _) in found.items()} == {
        frozenset(pair) for pair in (("1", "2"), ("4", "5"), ("7", "8"), ("10", "11"))
    }


def test_a_corpus_may_be_empty_or_have_no_candidates(find):
    assert find([], near_settings()) == {}
    assert find([[], []], near_settings()) == {}
    assert find([[("a", "one text")], [("b", "another one")]], near_settings()) == {}
    assert find([[("a", " ")], [("b", "\n")]], near_settings()) == {}


# ----------------------------------------------------------------------------------------------------------------------
# As stages of a job


def test_a_task_may_run_again_and_in_any_order_and_leaves_the_same_bytes(find, search_stages):
    rng = random.Random(9)
    documents = [(f"f{number:02}", " ".join(rng.choices("abcdef", k=20))) for number in range(40)]
    settings = NearSettings(threshold=0.3, ngram=2)
    both = DedupSettings(exact="text", near=settings)

    def files(job: Any) -> dict[str, bytes]:
        return {
            path.relative_to(job.directory).as_posix(): path.read_bytes()
            for path in sorted(job.directory.rglob("*"))
            if path.is_file()
        }

    with find.job(chunks(documents, [7]), both) as job:
        search_stages(job, small_stages(settings, 10))
        straight = files(job)
    with find.job(chunks(documents, [7]), both) as job:
        for stage in small_stages(settings, 10):
            tasks = list(range(stage.tasks(job)))
            for task in [*reversed(tasks), *tasks[:2]]:
                stage.run(job, task)
        assert files(job) == straight
    assert any(name.startswith("near-match/0000") for name in straight)


def test_stages_have_names_of_their_own_and_say_what_they_do():
    names = [stage.name for stage in stages(near_settings())]
    assert len(set(names)) == 7
    assert [stage.name for stage in stages(DedupSettings(exact="text"))] == names[:2]
    assert all(stage.verb for stage in stages(near_settings()))


def test_sets_are_computed_again_when_there_was_no_room(find):
    texts = [" ".join(sentence(number, 50)) for number in range(6)]
    units = [[(f"{number}", text) for number, text in enumerate(texts)]]
    with (
        find.job(units, near_settings()) as job,
        ShingleSets(job, 5) as roomy,
        ShingleSets(job, 5, held_bytes=1000) as narrow,
    ):
        for a, b in itertools.product(range(6), repeat=2):
            assert np.array_equal(narrow.hold(a), roomy.of(a))
            assert jaccard(narrow.of(a), narrow.hold(b)) == float(a == b)
            assert narrow._held_bytes <= 1000


def test_texts_of_more_units_than_may_be_open_are_found(find):
    documents = [(f"{number}", " ".join(sentence(number, 8))) for number in range(80)]
    with find.job([[one] for one in documents], near_settings()) as job, ShingleSets(job, 5) as sets:
        for _ in range(2):
            for unit, (_, text) in enumerate(documents):
                assert np.array_equal(sets.of(unit << 32), shingles(text, ngram=5))
        assert len(sets._units) < 80
