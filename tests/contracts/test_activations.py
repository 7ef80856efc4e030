"""What training keeps is what the bill says: byte for byte, storage by storage, as autograd itself sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specs import architectures

from vitruvius.nn import Signals, build
from vitruvius.nn.weights import tables_that_grow
from vitruvius.patterns import parse
from vitruvius.sizing.levels import levels_of
from vitruvius.spec import Architecture, Block, preset, preset_names, resolve, shrink, to_yaml
from vitruvius.spec.costs import Work
from vitruvius.spec.ffn.mlp import GeGLU, Mlp, SwiGLU
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.norms import LayerNorm, RMSNorm
from vitruvius.spec.positions.alibi import ALiBi
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.positions.t5 import T5Position
from vitruvius.spec.tracing.activity import steps

BYTES = {"fp32": 4, "bf16": 2}


def saved_by_autograd(architecture, *, batch, tokens, dtype, backend="auto") -> int:
    """Bytes of the storages that a forward pass keeps, besides parameters and buffers."""
    model = build(architecture, dtype=dtype)
    model.backend = backend
    model.train()
    for table in tables_that_grow(model).values():
        table.grow(tokens)  # as training does: growing replaces a parameter
    ids = torch.randint(0, architecture.vocab_size, (batch, tokens))
    source = None if architecture.encoder is None else ids.clone()
    known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in known:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    signals = Signals()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(ids, ids.clone(), source=source, signals=signals)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def saved_on_paper(architecture, *, batch, tokens, dtype, attention="auto") -> tuple[int, int]:
    """The same from the spec alone, and how far it may be off."""
    work = Work(batch=batch, tokens=tokens, value_bytes=BYTES[dtype], attention=attention)
    stretches = steps(resolve(architecture), work)
    levels = levels_of(stretches)
    kept = {name.removeprefix("constant:") for stretch in stretches for name in stretch.replay.kept_keys}
    unkept = sum(size for name, size in levels.constants if name not in kept)
    return levels.saved - unkept, levels.unsure


def agrees(architecture, *, batch, tokens, dtype) -> None:
    found = saved_by_autograd(architecture, batch=batch, tokens=tokens, dtype=dtype)
    said, unsure = saved_on_paper(architecture, batch=batch, tokens=tokens, dtype=dtype)
    assert abs(found - said) <= unsure, f"said {said:,} +- {unsure:,}, kept {found:,}\n\n{to_yaml(architecture)}"


@pytest.mark.parametrize("name", preset_names())
def test_what_a_preset_keeps_is_known_to_the_byte(name):
    twin = shrink(preset(name))
    agrees(twin, batch=2, tokens=min(64, twin.context), dtype="bf16")
    agrees(twin, batch=1, tokens=33, dtype="fp32")
    agrees(twin, batch=3, tokens=1, dtype="fp32")


@pytest.mark.slow
@given(architectures(), st.sampled_from([(1, "fp32"), (2, "bf16"), (3, "fp32")]), st.sampled_from([1, 2, 7, 24]))
def test_what_any_valid_spec_keeps_is_known_to_the_byte(architecture, form, tokens):
    batch, dtype = form
    agrees(architecture, batch=batch, tokens=tokens, dtype=dtype)


def attention(**changes) -> Architecture:
    """One layer of attention and a wide feed-forward."""
    mixer = Attention(**{"heads": 4, "kv_heads": 2, "position": RotaryPosition()} | changes)
    return Architecture(
        name="one",
        vocab_size=61,
        width=32,
        context=700,
        blocks={"a": Block(mixer=mixer, ffn=SwiGLU(hidden=40))},
        layers="a*2",
    )


@pytest.mark.parametrize(
    "sees",
    [
        "causal",
        "causal & sliding(40)",
        "causal & (sliding(64) | global(every=50))",
        "causal & (sinks(4) | sliding(32))",
        "causal & dilated(20, every=4)",
        "causal & block(100)",
        "causal & where((q - k) % 3 == 0)",
    ],
)
@pytest.mark.parametrize("tokens", [100, 257, 600])
def test_long_sequences_keep_probabilities_only_where_they_are_small(sees, tokens):
    parse(sees)
    for batch, dtype in ((1, "fp32"), (2, "bf16")):
        agrees(attention(sees=sees), batch=batch, tokens=tokens, dtype=dtype)


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_heads": 1},
        {"kv_heads": 4},
        {"heads": 1, "kv_heads": None},
        {"qk_norm": RMSNorm()},
        {"qk_norm": LayerNorm()},
        {"gate": "headwise"},
        {"gate": "elementwise"},
        {"sinks": "learned"},
        {"sinks": "off-by-one"},
        {"logit_cap": 5.0},
        {"position": ALiBi()},
        {"position": T5Position()},
        {"position": RotaryPosition(fraction=0.5)},
        {"position": None, "bias": "all"},
        {"sinks": "learned", "qk_norm": RMSNorm(), "gate": "elementwise", "logit_cap": 5.0, "kv_heads": 1},
    ],
    ids=str,
)
def test_what_attention_keeps_follows_its_heads_norms_gates_and_positions(changes):
    for batch, tokens, dtype in ((1, 50, "bf16"), (2, 150, "fp32"), (1, 1, "fp32")):
        agrees(attention(**changes), batch=batch, tokens=tokens, dtype=dtype)


FFNS = (
    *(Mlp(hidden=40, activation=activation) for activation in ("relu", "relu2", "gelu", "gelu_tanh", "silu")),
    Mlp(hidden=40, bias=True),
    SwiGLU(hidden=40),
    GeGLU(hidden=40, approximate="none"),
)


@pytest.mark.parametrize("ffn", FFNS, ids=str)
def test_what_a_feed_forward_keeps_follows_its_activation(ffn):
    design = attention()
    block = replace(design.blocks["a"], ffn=ffn)
    agrees(replace(design, blocks={"a": block}), batch=2, tokens=20, dtype="bf16")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": RMSNorm(), "kv_heads": 1},
        {"logit_cap": 5.0},
        {"position": ALiBi()},
        {"position": T5Position()},
        {"sinks": "learned"},
        {"sinks": "off-by-one", "gate": "headwise"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("batch", "dtype"), [(1, "fp32"), (2, "bf16")])
def test_with_every_score_held_the_matrix_of_scores_is_kept_to_the_byte(changes, batch, dtype):
    design = attention(**changes)
    found = saved_by_autograd(design, batch=batch, tokens=48, dtype=dtype, backend="reference")
    said, unsure = saved_on_paper(design, batch=batch, tokens=48, dtype=dtype, attention="full")
    assert (found, unsure) == (said, 0)


def test_a_kind_alone_counts_its_input_and_a_layer_counts_it_once():
    graph = resolve(attention())
    layer, work = graph.layers[0], Work(batch=2, tokens=64)
    alone = sum(component.activations(layer.scope, work).saved for _, component in layer.sublayers())
    norms = 2 * (2 * 64 * 32 * 2 + 4 * 2 * 64)
    assert layer.activations(work).saved == alone + norms
