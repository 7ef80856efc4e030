"""Whole mixtures against Hugging Face's: the sigmoid router of DeepSeek-V3, the gated shared expert of Qwen2-MoE."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn.ffn.moe import MoeModule
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory, load_modules
from vitruvius.spec import Scope
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.sigmoid import SigmoidRouter
from vitruvius.spec.routers.softmax import SoftmaxRouter

pytest.importorskip("transformers", reason="transformers is not installed")

WIDTH, HIDDEN, EXPERTS = 16, 24, 8


def ours(**fields) -> MoeModule:
    load_modules()
    spec = Moe(experts=EXPERTS, expert=SwiGLU(hidden=HIDDEN), **fields)
    scope = Scope(width=WIDTH, vocab_size=10, context=10, depth=1)
    module = MoeModule(spec, scope, Factory(device=torch.device("cpu"), dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return module.eval()


def x() -> torch.Tensor:
    return torch.randn(2, 30, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def place() -> Place:
    return Place(positions=torch.arange(30))


def fill(module: MoeModule, theirs, shared: str) -> None:
    maps = {name: getattr(module.shared_expert, name).weight for name in ("gate", "up", "down")}
    state = {
        "gate.weight": module.router.weight,
        "experts.gate_up_proj": torch.cat([module.experts.gate_weight, module.experts.up_weight], dim=1),
        "experts.down_proj": module.experts.down_weight,
        **{f"{shared}.{name}_proj.weight": weight for name, weight in maps.items()},
    }
    if module.shared_gate is not None:
        state["shared_expert_gate.weight"] = module.shared_gate.weight
    if hasattr(module.router, "bias"):
        state["gate.e_score_correction_bias"] = module.router.bias
    theirs.load_state_dict({name: value.detach() for name, value in state.items()})


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (2, 1), (4, 4)])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("top_k", [2, 3])
def test_a_sigmoid_mixture_is_deepseek_v3s(groups, top_groups, renormalise, top_k):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    router = SigmoidRouter(groups=groups, top_groups=top_groups, renormalise=renormalise, scale=2.5)
    module = ours(top_k=top_k, router=router, shared_expert=SwiGLU(hidden=HIDDEN))
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        moe_intermediate_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=top_k,
        n_shared_experts=1,
        n_group=groups,
        topk_group=top_groups,
        norm_topk_prob=renormalise,
        routed_scaling_factor=2.5,
    )
    theirs = DeepseekV3MoE(config).double().eval()
    fill(module, theirs, "shared_experts")
    routing = module.router(x(), place())
    _, weights, chosen = theirs.gate(x())
    # They compute scores in fp32 whatever the model's format.
    assert torch.equal(routing.chosen_NK.sort(dim=1).values, chosen.sort(dim=1).values)
    found = torch.zeros(60, EXPERTS, dtype=torch.float64).scatter(1, routing.chosen_NK, routing.weights_NK)
    expected = torch.zeros(60, EXPERTS, dtype=torch.float64).scatter(1, chosen, weights.double())
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert torch.allclose(module(x(), place()), theirs(x()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("renormalise", [True, False])
def test_a_mixture_with_a_gated_shared_expert_is_qwen2_moes(renormalise):
    from transformers import Qwen2MoeConfig
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    module = ours(
        top_k=3,
        router=SoftmaxRouter(renormalise=renormalise),
        shared_expert=SwiGLU(hidden=40),
        shared_gate="sigmoid",
    )
    config = Qwen2MoeConfig(
        hidden_size=WIDTH,
        moe_intermediate_size=HIDDEN,
        shared_expert_intermediate_size=40,
        num_experts=EXPERTS,
        num_experts_per_tok=3,
        norm_topk_prob=renormalise,
    )
    theirs = Qwen2MoeSparseMoeBlock(config).double().eval()
    fill(module, theirs, "shared_expert")
    assert torch.allclose(module(x(), place()), theirs(x()), rtol=0, atol=1e-6)
