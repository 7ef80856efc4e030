"""One of our specs and one of Hugging Face's models with the same weights, in fp64."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from vitruvius.nn import build
from vitruvius.spec import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TOKENS = torch.randint(61, (2, 60), generator=torch.Generator().manual_seed(1))
SAME = 2e-6
"""Hugging Face keeps rotary tables and norm statistics in fp32 even in an fp64 model: that much is rounding."""


@dataclass(frozen=True)
class Twin:
    """One of our specs, their configuration, and how their names come from ours."""

    spec: str
    config: Callable[[], object]
    model: str
    names: tuple[tuple[str, str], ...]
    """(regular expression over our names, their name); the first that matches counts."""


def logits_of_both(twin: Twin) -> tuple[torch.Tensor, torch.Tensor]:
    ours = build(read_text(twin.spec).architecture, dtype="fp64", seed=3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).double() * 0.1)
    theirs = getattr(transformers, twin.model)(twin.config()).double().eval()
    state = theirs.state_dict()
    filled = set()
    for name, value in translated(ours, twin.names):
        assert name in state, f"they have no {name}"
        target = state[name]
        # GPT-2 stores linear maps transposed.
        turned = value.T if twin.model.startswith("GPT2") and "c_" in name and value.dim() == 2 else value
        assert target.shape == turned.shape, name
        target.copy_(turned)
        filled.add(name)
    left = {name for name in state if name not in filled and "inv_freq" not in name}
    assert left <= {"lm_head.weight"}, f"nothing of ours went into {sorted(left)}"
    with torch.no_grad():
        return ours(TOKENS), theirs(TOKENS).logits


def translated(ours, names):
    """(their name, value) of each of our tensors; query, key and value or gate and up may share one of theirs."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in ours.named_parameters():
        for pattern, theirs in names:
            if re.fullmatch(pattern, name):
                parts.setdefault(re.sub(pattern, theirs, name), []).append(parameter.detach())
                break
        else:
            raise AssertionError(f"no name for {name}")
    for name, values in parts.items():
        yield name, torch.cat(values, dim=1 if values[0].dim() == 3 else 0)


LAYER = r"layers\.(\d+)\."
LLAMA_NAMES = (
    (r"embedding\.tokens\.weight", "model.embed_tokens.weight"),
    (r"final_norm\.weight", "model.norm.weight"),
    (r"head\.weight", "lm_head.weight"),
    (LAYER + r"mixer\.(q|k|v)\.(weight|bias)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (LAYER + r"mixer\.out\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
    (LAYER + r"mixer\.(q|k)_norm\.weight", r"model.layers.\1.self_attn.\2_norm.weight"),
    (LAYER + r"mixer_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (LAYER + r"ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (LAYER + r"ffn\.(gate|up|down)\.weight", r"model.layers.\1.mlp.\2_proj.weight"),
    (LAYER + r"ffn\.router\.weight", r"model.layers.\1.mlp.gate.weight"),
    (LAYER + r"ffn\.experts\.(?:gate|up)_weight", r"model.layers.\1.mlp.experts.gate_up_proj"),
    (LAYER + r"ffn\.experts\.down_weight", r"model.layers.\1.mlp.experts.down_proj"),
)
