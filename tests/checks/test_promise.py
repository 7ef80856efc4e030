"""What the layers promise together, held against paths that are followed one by one."""

from __future__ import annotations

import planted
import pytest
import torch

from vitruvius.checks import check
from vitruvius.checks.promise import promised, receptive_field
from vitruvius.checks.receptive import effective_field, influence, spread
from vitruvius.spec import preset, read_text, resolve

LENGTH = 24


def graph_of(text: str):
    return resolve(read_text(text).architecture)


def sliding(window: int, layers: int, context: int) -> str:
    mixer = f"{{kind: attention, heads: 4, sees: causal & sliding({window})}}"
    return planted.spec("windows", f"a: {{mixer: {mixer}}}", f"a*{layers}", context=context)


def followed(graph, length: int) -> list[set[int]]:
    """Which positions each output depends on, forwards and with sets; keys are read where they were made."""
    stream = [{t} for t in range(length)]
    before = []
    for layer in graph.layers:
        before.append(stream)
        made = stream if layer.keys_from is None else before[layer.keys_from]
        allows = layer.mixer.pattern().allows
        read = [set().union(*(made[k] for k in range(length) if allows(q, k))) for q in range(length)]
        stream = [own | seen for own, seen in zip(stream, read, strict=True)]
    return stream


@pytest.mark.parametrize(
    "text",
    [sliding(3, 4, 40), planted.LENDING, planted.PLAIN, planted.SPEC],
    ids=["windows", "lending", "plain", "two kinds"],
)
def test_the_composition_is_that_of_every_path(text):
    graph = graph_of(text)
    found = promised(graph, LENGTH, range(LENGTH))
    expected = [[s in seen for s in range(LENGTH)] for seen in followed(graph, LENGTH)]
    assert found.text.must_QT.tolist() == expected
    assert found.text.may_QT.tolist() == expected
    assert found.source is None


def test_cross_attention_leads_to_the_whole_source():
    found = promised(graph_of(planted.TRANSLATING), LENGTH, [0, 5])
    assert found.source is not None
    assert bool(found.source.must_QT.all())


def test_a_forget_gate_may_read_between_a_query_and_its_keys_and_must_not():
    text = planted.spec(
        "gated", "a: {mixer: {kind: attention, heads: 4, sees: 'causal & dilated(2, every=4)', position: fox}}", "a"
    )
    found = promised(graph_of(text), LENGTH, [10])
    assert found.text.must_QT[0].nonzero().flatten().tolist() == [6, 10]
    assert found.text.may_QT[0].nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    assert found.sums


def test_the_receptive_field_of_32_windows_of_512_is_16353():
    assert receptive_field(graph_of(sliding(512, 32, 100_000))) == 16_353
    assert receptive_field(graph_of(sliding(512, 32, 4_096))) == 4_096


@pytest.mark.parametrize(("name", "expected"), [("llama-3-8b", 8_192), ("mamba", 2_048), ("longcontext", 102_400)])
def test_full_attention_and_recurrences_reach_back_to_the_start(name, expected):
    assert receptive_field(resolve(preset(name))) == expected


def test_the_field_at_full_size_bounds_the_composition():
    for text in (sliding(3, 4, 40), planted.LENDING):
        graph = graph_of(text)
        row = promised(graph, LENGTH, [LENGTH - 1]).text.may_QT[0]
        assert LENGTH - int(row.nonzero()[0]) == receptive_field(graph)


# ----------------------------------------------------------------------------------------------------------------------
# The measurement


def test_the_influence_of_a_linear_map_is_the_length_of_its_rows():
    weight = torch.tensor([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0]], dtype=torch.float64)
    embedded = torch.ones(2, 3, 1, dtype=torch.float64, requires_grad=True)

    def logits():
        return torch.stack([row @ embedded[i] for i, row in enumerate(weight)]).unsqueeze(1)

    (found,) = influence(logits, [embedded], [0, 0])
    assert torch.allclose(found / found[:, :1], weight / weight[:, :1])


def test_the_effective_field_is_the_fewest_positions_that_hold_the_share():
    assert effective_field(torch.tensor([0.05, 0.6, 0.05, 0.3]), at=3) == (3, 3)
    assert effective_field(torch.tensor([0.0, 0.0, 0.0, 2.0]), at=3) == (1, 0)
    assert effective_field(torch.zeros(4), at=3) == (0, 0)


def test_queries_are_spread_from_the_first_to_the_last():
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(1, 10) == [0]


@pytest.mark.usefixtures("one_thread")
def test_the_report_gives_the_bound_and_the_effective_field():
    outcome = check(read_text(planted.LENDING).architecture, only=["receptive-field"])["receptive-field"]
    assert outcome.passed
    # 2 of each near layer, 8 of the far one to what the second read: 2 + 8 beside the first's 2
    assert outcome.values["bound_at_full_size"] == receptive_field(graph_of(planted.LENDING))
    assert 1 <= outcome.values["effective_positions"] <= max(outcome.values["positions"])
    assert sum(outcome.values["gradient_by_distance"]) == pytest.approx(1.0)
