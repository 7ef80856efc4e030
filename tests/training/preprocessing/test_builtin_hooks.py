"""What the built-in hooks make of a sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.training.preprocessing import BUILTIN, IGNORED, HookSample

EOS, PRE, SUF, MID, MASK, VOCAB = 0, 97, 98, 99, 99, 100
DATA_VOCAB = 60


def sample_of(lengths, *, cut=False, padding=0):
    """Documents of these lengths, separators included, the last one cut short or not, and padding."""
    draw = np.random.default_rng(sum(lengths) + len(lengths))
    inputs, documents = [], []
    for number, length in enumerate(lengths):
        ids = draw.integers(1, DATA_VOCAB, length).tolist()
        if not (cut and number == len(lengths) - 1):
            ids[-1] = EOS
        inputs += ids
        documents += [number] * length
    following = [*inputs[1:], int(draw.integers(1, DATA_VOCAB)) if cut or not padding else IGNORED]
    inputs += [EOS] * padding
    documents += [-1] * padding
    following += [IGNORED] * padding
    inputs, documents, targets = (np.array(a, dtype=np.int64) for a in (inputs, documents, following))
    crosses = np.append(documents[1:] != documents[:-1], not (cut or padding)) & (targets >= 0)
    for array in (inputs, targets, documents, crosses):
        array.flags.writeable = False
    return HookSample(
        inputs=inputs,
        targets=targets,
        documents=documents,
        crosses=crosses,
        sample_id=0,
        epoch=0,
        source="all",
        eos_id=EOS,
        vocab_size=VOCAB,
        data_vocab_size=DATA_VOCAB,
    )


samples = st.builds(
    sample_of,
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    cut=st.booleans(),
    padding=st.sampled_from([0, 0, 5]),
)


def whole(text, *, ended):
    """The text that a rearranged stretch stands for, prefix + middle + suffix, or None where it was left alone."""
    text = text.tolist()
    if text[0] != PRE:
        return None
    body = text[:-1] if ended else text
    suffix, middle = body.index(SUF), body.index(MID)
    if suffix == 1:
        # SPM, or PSM with an empty prefix: they differ in where the prefix is, and here it is after MID.
        return body[middle + 1 :], body[2:middle]
    return body[1:suffix] + body[middle + 1 :], body[suffix + 1 : middle]


@given(samples, st.integers(0, 2**32), st.sampled_from([0.0, 1.0]))
def test_fim_keeps_every_text_in_its_place_but_for_the_three_tokens_that_the_sentinels_take(sample, seed, spm):
    given = BUILTIN["fim"](sample, np.random.default_rng(seed), rate=1.0, spm=spm)
    inputs, targets = given["inputs"], given["targets"]
    for document in sorted(set(sample.documents.tolist()) - {-1}):
        places = np.flatnonzero(sample.documents == document)
        start, stop = int(places[0]), int(places[-1]) + 1
        old, new = sample.inputs[start:stop], inputs[start:stop]
        ended = old[-1] == EOS
        text = (old[:-1] if ended else old).tolist()
        left = text[3:] if ended else text[:-3]
        found = whole(new, ended=ended)
        if found is None:
            assert len(text) <= 3
            assert np.array_equal(old, new)
            assert np.array_equal(targets[start : stop - 1], sample.targets[start : stop - 1])
            continue
        before_and_middle, suffix = found
        assert before_and_middle + suffix == left
        assert [(new == mark).sum() for mark in (PRE, SUF, MID)] == [1, 1, 1]
        assert (new[-1] == EOS) == ended
        assert np.array_equal(targets[start : stop - 1], new[1:])
        assert ended or targets[stop - 1] == IGNORED
        if start and sample.crosses[start - 1]:
            assert targets[start - 1] == PRE
    assert (inputs[sample.documents < 0] == EOS).all()
    assert (targets[sample.documents < 0] == IGNORED).all()


def test_fim_cuts_at_every_place_and_orders_as_the_paper_has_it():
    sample = sample_of([11])
    text = sample.inputs[3:-1].tolist()
    psm = {tuple(BUILTIN["fim"](sample, np.random.default_rng(n), rate=1.0, spm=0.0)["inputs"]) for n in range(600)}
    spm = {tuple(BUILTIN["fim"](sample, np.random.default_rng(n), rate=1.0, spm=1.0)["inputs"]) for n in range(600)}
    cuts = [(a, b) for a in range(8) for b in range(a, 8)]
    assert psm == {(PRE, *text[:a], SUF, *text[b:], MID, *text[a:b], EOS) for a, b in cuts}
    assert spm == {(PRE, SUF, *text[b:], MID, *text[:a], *text[a:b], EOS) for a, b in cuts}


def test_fim_takes_its_rates():
    sample = sample_of([12] * 40)
    chosen = [
        (BUILTIN["fim"](sample, np.random.default_rng(n), rate=0.3)["inputs"] == PRE).sum() / 40 for n in range(50)
    ]
    assert np.mean(chosen) == pytest.approx(0.3, abs=0.03)
    assert BUILTIN["fim"](sample, np.random.default_rng(0), rate=0.0)["inputs"].tolist() == sample.inputs.tolist()


@given(samples, st.integers(0, 2**32), st.floats(0, 1), st.floats(1, 8), st.sampled_from(["everything", "hidden"]))
def test_span_mask_hides_inputs_and_asks_for_what_was_there(sample, seed, rate, mean, ask):
    given = BUILTIN["span-mask"](sample, np.random.default_rng(seed), rate=rate, mean=mean, ask=ask)
    hidden = given["inputs"] != sample.inputs
    assert (given["inputs"][hidden] == MASK).all()
    assert not hidden[(sample.inputs == EOS) | (sample.documents < 0)].any()
    if ask == "everything":
        assert "targets" not in given
        return
    asked = given["targets"] != IGNORED
    assert np.array_equal(given["targets"][asked], sample.targets[asked])
    assert np.array_equal(asked[:-1], hidden[1:] & (sample.targets[:-1] != IGNORED))
    could = (sample.targets[:-1] != IGNORED) & (sample.inputs[1:] != EOS) & (sample.documents[1:] >= 0)
    assert asked.any() == could.any(), "a sample asks for something where it can"


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 2.0), (0.8, 5.0), (0.15, 1.0), (1.0, 3.0)])
def test_span_mask_hides_the_share_it_is_asked_for_in_spans_of_the_mean_length(rate, mean):
    sample = sample_of([20_001])
    hidden = np.zeros(0, dtype=bool)
    for seed in range(5):
        given = BUILTIN["span-mask"](sample, np.random.default_rng(seed), rate=rate, mean=mean)
        hidden = np.append(hidden, given["inputs"][:-1] == MASK)
    assert hidden.mean() == pytest.approx(rate, rel=0.04)


@given(samples, st.integers(0, 2**32), st.floats(0, 1), st.sampled_from(["mask", "sample"]))
def test_token_drop_replaces_inputs_and_leaves_targets(sample, seed, rate, by):
    given = BUILTIN["token-drop"](sample, np.random.default_rng(seed), rate=rate, by=by)
    assert given.keys() <= {"inputs"}
    inputs = given.get("inputs", sample.inputs)
    changed = inputs != sample.inputs
    assert not changed[(sample.inputs == EOS) | (sample.documents < 0)].any()
    real = set(sample.inputs[(sample.documents >= 0) & (sample.inputs != EOS)].tolist())
    assert set(inputs[changed].tolist()) <= ({MASK} if by == "mask" else real)


def test_token_drop_drops_at_its_rate():
    sample = sample_of([20_001])
    given = BUILTIN["token-drop"](sample, np.random.default_rng(0), rate=0.1)
    assert (given["inputs"] == MASK).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("fim", {"rate": 1.5}, "rate is 1.5: use a number from 0 to 1"),
        ("fim", {"spm": -0.1}, "spm is -0.1"),
        ("fim", {"prefix_id": 100}, "prefix_id is 100, and ids are below the vocabulary of 100"),
        ("span-mask", {"rate": float("nan")}, "rate is nan"),
        ("span-mask", {"mean": 0.5}, "a span has at least 1 token"),
        ("span-mask", {"ask": "all"}, "use everything or hidden"),
        ("token-drop", {"by": "luck"}, "use mask or sample"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(name, options, what):
    with pytest.raises(ValueError, match=what):
        BUILTIN[name](sample_of([9]), np.random.default_rng(0), **options)


@pytest.mark.parametrize("name", BUILTIN)
def test_sentinels_that_stand_for_tokens_of_the_data_are_refused_with_the_way_out(name):
    from dataclasses import replace

    full = replace(sample_of([9]), data_vocab_size=VOCAB)
    with pytest.raises(ValueError, match=r"stands for a token of the data: --set vocab_size=10[13] makes room"):
        BUILTIN[name](full, np.random.default_rng(0), rate=1.0)
