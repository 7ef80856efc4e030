"""Gates over a text: what is shown is what the position used, token by token."""

from __future__ import annotations

import pytest
import torch

from vitruvius.evals.inspecting.gates import gates_of
from vitruvius.evals.inspecting.listening import listen
from vitruvius.nn import build
from vitruvius.spec import preset, shrink

POSITIONS = {
    "fox": ("forget gate", "head", 1.0),
    "cope": ("counting gate", "head", 1.0),
    "path": ("beta", "key group", 2.0),
    "cumulative-rope": ("rate of turning", "key group", 2.0),
}


def model_with(small, position):
    return build(
        small(f"{{kind: attention, heads: 2, sees: causal, position: {position}}}"), dtype="fp32", seed=4
    ).eval()


def heard(model, tokens):
    found = []
    listen(model, tokens, beside=lambda: gates_of(model, found))
    return found


@pytest.fixture
def tokens():
    return torch.randint(64, (1, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_that_depends_on_the_text_shows_its_gate(small, look, position) -> None:
    document = look(small(f"{{kind: attention, heads: 2, sees: causal, position: {position}}}"))
    name, of, most = POSITIONS[position]
    gates = [gate for gate in document["gates"] if gate["name"] == name]
    assert [gate["path"] for gate in gates] == ["layers.0", "layers.1"]
    for gate in gates:
        assert gate["of"] == of
        assert gate["most"] in {most, None}
        assert len(gate["mean"]) == len(document["text"]["tokens"])
        assert all(low <= mean + 1e-9 for low, mean in zip(gate["low"], gate["high"], strict=True))
        top = gate["most"] or float("inf")
        assert all(0 <= value <= top or gate["most"] is None for row in gate["values"] for value in row)


def test_listening_to_gates_changes_nothing_and_takes_itself_away(small, tokens) -> None:
    for position in POSITIONS:
        model = model_with(small, position)
        before = model(tokens)
        found = heard(model, tokens)
        assert found
        assert torch.equal(model(tokens), before)
        count = len(found)
        model(tokens)
        assert len(found) == count
        assert not any(
            name in vars(module) for module in model.modules() for name in ("attend", "decay", "maps", "angles")
        )


def test_methods_are_put_back_when_a_pass_fails(small) -> None:
    model = model_with(small, "fox")
    found = []
    with pytest.raises(RuntimeError), gates_of(model, found):
        raise RuntimeError
    assert not any("decay" in vars(module) for module in model.modules())


def test_a_forget_gate_is_the_difference_of_the_sums_that_scores_gain(small, tokens) -> None:
    model = model_with(small, "fox")
    (gate, _) = heard(model, tokens)
    looks = []
    listen(model, tokens, look=looks.append)
    sums_HT = model.layers[0].mixer.position.decay(looks[0].x_BTD, looks[0].place, None)[0]
    steps = torch.diff(sums_HT, dim=1, prepend=torch.zeros(2, 1))
    assert torch.allclose(gate.values_HT, steps.exp(), atol=1e-5)


def test_the_gate_of_an_embedding_is_how_far_it_let_the_position_in() -> None:
    model = build(shrink(preset("context-aware-bert")), dtype="fp32", seed=0).eval()
    tokens = torch.randint(64, (1, 12), generator=torch.Generator().manual_seed(1))
    (gate,) = heard(model, tokens)
    module = model.embedding.position
    plain = model.embedding.tokens(tokens)
    with torch.no_grad():
        added = module.embed(plain, type("Here", (), {"signals": None, "positions": torch.arange(12)})()) - plain
        rows = module.table.rows(torch.arange(12), plain)
    assert torch.allclose(gate.values_HT.T * rows, added[0], atol=1e-5)


def test_a_model_without_such_positions_shows_no_gates(small, look) -> None:
    assert look(small())["gates"] == []
