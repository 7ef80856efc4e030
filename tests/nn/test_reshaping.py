"""A model that changes its shape computes, bit for bit, what one that was built so computes with the same weights."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from vitruvius.errors import SpecError, UsageError
from vitruvius.nn import Signals, build
from vitruvius.nn.reshaping import Reshaping
from vitruvius.nn.updates import after_step, begin_update
from vitruvius.nn.weights import copy_weights
from vitruvius.patterns import NAMED
from vitruvius.spec import preset, read_text
from vitruvius.spec.fields import all_fields, fields_at, with_values
from vitruvius.spec.model import PARTS, Block
from vitruvius.spec.node import all_kinds
from vitruvius.spec.schedulable import marks_of

TOKENS = 24
ROPE = "{kind: rope}"
SWIGLU = "{kind: swiglu, hidden: 24}"
MOE = "{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 16}, router: {kind: ROUTER}}"


def spec_of(*, mixer="{kind: attention, heads: 2, kv_heads: 1, position: ROPE}", ffn=SWIGLU, rest="", rope=ROPE):
    text = f"""
name: shaped
vocab_size: 64
width: 16
context: 32
blocks:
  a:
    mixer: {mixer.replace("ROPE", rope)}
    ffn: {ffn}
  b:
    mixer: {{kind: attention, heads: 2, position: {{kind: rope}}}}
    ffn: {SWIGLU}
layers: a b
{rest}
"""
    return read_text(text).architecture


def seeing(kind, **fields):
    own = {
        "attention": "heads: 2, kv_heads: 1",
        "differential": "heads: 2, kv_heads: 1",
        "mla": "heads: 2, kv_rank: 8, nope_width: 8, rope_width: 4, value_width: 8",
    }[kind]
    given = "".join(f", {name}: {value}" for name, value in fields.items())
    return spec_of(mixer=f"{{kind: {kind}, {own}, position: {ROPE}{given}}}")


def scaled(kind, more="original_context: 16"):
    return spec_of(rope=f"{{kind: rope, scaling: {{kind: {kind}, factor: 2, {more}}}}}")


def routed(kind, **fields):
    given = "".join(f", {name}: {value}" for name, value in fields.items())
    return spec_of(ffn=MOE.replace("{kind: ROUTER}", f"{{kind: {kind}{given}}}"))


def gated(**fields):
    given = "".join(f", {name}: {value}" for name, value in fields.items())
    return spec_of(rest=f"embedding: {{position: {{kind: gated-additive{given}}}}}")


M = "blocks.a.mixer"
R = "blocks.a.ffn.router"
LONGROPE = "original_context: 16, short_factor: [1, 1, 2, 2], long_factor: [1, 2, 3, 4]"
BERT = ["width=16", "context=32", "vocab_size=64", "layers=layer", "blocks.layer.mixer.heads=2"]
CASES = {
    **{f"{kind} sees": (seeing(kind), f"{M}.sees", "causal & sliding(5)") for kind in ("attention", "differential")},
    "mla sees": (seeing("mla"), f"{M}.sees", "causal & (sliding(5) | sinks(1))"),
    "attention score_scale": (seeing("attention"), f"{M}.score_scale", 0.1),
    "differential score_scale": (seeing("differential"), f"{M}.score_scale", 0.1),
    "mla score_scale": (seeing("mla", score_scale=0.2), f"{M}.score_scale", 0.1),
    "attention logit_cap": (seeing("attention"), f"{M}.logit_cap", 0.5),
    "attention logit_cap off": (seeing("attention", logit_cap=0.5), f"{M}.logit_cap", None),
    "rope theta": (spec_of(), f"{M}.position.theta", 100.0),
    "cumulative-rope theta": (spec_of(rope="{kind: cumulative-rope}"), f"{M}.position.theta", 100.0),
    **{
        f"{kind} factor": (scaled(kind, more), f"{M}.position.scaling.factor", 3.0)
        for kind, more in (
            ("linear", "original_context: 16"),
            ("ntk", "original_context: 16"),
            ("llama3", "original_context: 16"),
            ("yarn", "original_context: 16"),
            ("longrope", LONGROPE),
        )
    },
    "lm softcap": (spec_of(), "head.softcap", 0.5),
    "softmax balance_loss": (routed("softmax"), f"{R}.balance_loss", 0.5),
    "softmax z_loss": (routed("softmax"), f"{R}.z_loss", 0.5),
    "softmax noise": (routed("softmax"), f"{R}.noise", 2.0),
    "softmax noise off": (routed("softmax", noise=2.0), f"{R}.noise", 0.0),
    "sigmoid scale": (routed("sigmoid"), f"{R}.scale", 2.0),
    "sigmoid bias_step": (routed("sigmoid"), f"{R}.bias_step", 0.5),
    "sigmoid balance_loss": (routed("sigmoid"), f"{R}.balance_loss", 0.5),
    "moe top_k": (routed("softmax"), "blocks.a.ffn.top_k", 3),
    "moe top_k of hash": (routed("hash"), "blocks.a.ffn.top_k", 3),
    "moe capacity": (routed("softmax"), "blocks.a.ffn.capacity", 1.0),
    "gated-additive strength": (gated(), "embedding.position.strength", 0.5),
    "gated-additive strength to one": (gated(strength=0.0), "embedding.position.strength", 1.0),
    "gated-additive temperature": (gated(), "embedding.position.temperature", 0.1),
    "block residual_scale": (spec_of(), "blocks.a.residual_scale", 0.3),
    "mtp loss_weight": (spec_of(rest="mtp: {block: b}"), "mtp.loss_weight", 0.1),
    "every block": (spec_of(), "blocks.*.mixer.position.theta", 100.0),
    "prefix": (seeing("attention", prefix="open"), f"{M}.sees", "causal & sliding(5)"),
    "alibi": (spec_of(rope="{kind: alibi}"), f"{M}.sees", "causal & sliding(5)"),
    "t5": (spec_of(rope="{kind: t5}"), f"{M}.sees", "causal & sliding(5)"),
    "fox": (spec_of(rope="{kind: fox}"), f"{M}.sees", "causal & sliding(5)"),
    "cope": (spec_of(rope="{kind: cope}"), f"{M}.sees", "causal & sliding(5)"),
    "path": (spec_of(rope="{kind: path}"), f"{M}.sees", "causal & sliding(5)"),
    "expert-choice z_loss": (
        preset("context-aware-bert", overrides=[*BERT, f"blocks.layer.ffn={MOE.replace('ROUTER', 'expert-choice')}"]),
        "blocks.layer.ffn.router.z_loss",
        0.5,
    ),
}
ARGUMENTS = {
    "sliding.window": ("causal & sliding(4)", 7),
    "around.window": ("causal & around(4)", 7),
    "sinks.count": ("causal & (sliding(4) | sinks(1))", 3),
    "global.every": ("causal & (sliding(4) | global(every=8, offset=1))", 5),
    "global.offset": ("causal & (sliding(4) | global(every=8, offset=1))", 2),
    "dilated.window": ("causal & dilated(3, every=2)", 5),
    "dilated.every": ("causal & dilated(3, every=2)", 4),
    "stride.every": ("causal & stride(2)", 3),
    "block.size": ("causal & block(4)", 6),
    "stride2d.height": ("causal & stride2d(2, 4)", 3),
    "stride2d.width": ("causal & stride2d(2, 4)", 5),
}
CASES |= {
    f"sees {name}": (seeing("attention", sees=f'"{text}"'), f"{M}.sees.{name}", value)
    for name, (text, value) in ARGUMENTS.items()
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Everything that two updates and a few decoding steps of a model come to."""

    tensors: dict[str, torch.Tensor]
    numbers: list[object]

    def differs_from(self, other: Seen) -> list[str]:
        both = self.tensors.keys() & other.tensors.keys()
        found = sorted(self.tensors.keys() ^ other.tensors.keys())
        found += [name for name in both if not torch.equal(self.tensors[name], other.tensors[name])]
        return found + (["numbers"] if self.numbers != other.numbers else [])


def seen_of(model, *, backend="auto", checkpointing="none") -> Seen:
    model.backend, model.checkpointing = backend, checkpointing
    model.zero_grad(set_to_none=True)
    model.train()
    after_step(model)
    draw = torch.Generator().manual_seed(5)
    architecture = model.architecture
    tensors, numbers = {}, []
    opened = any(getattr(block.mixer, "prefix", "masked") == "open" for block in architecture.blocks.values())
    for step in (1, 2):
        begin_update(model, seed=3, step=step)
        ids = torch.randint(0, architecture.vocab_size, (2, TOKENS), generator=draw)
        documents = None if step == 1 or opened else (torch.arange(TOKENS) // 9).expand(2, -1).contiguous()
        signals = Signals(routing=[])
        loss = model.loss(ids, ids.roll(-1, 1), documents=documents, signals=signals, prefix=[3, 5] if opened else None)
        sum(signals.losses, loss).backward()
        tensors |= {
            f"loss {step}": loss.detach(),
            **{f"aux {step} {i}": x.detach() for i, x in enumerate(signals.losses)},
        }
        numbers += [{name: [float(value) for value in values] for name, values in signals.metrics.items()}]
        numbers += [[chosen.tolist() for chosen in signals.routing]]  # pyright: ignore[reportOptionalIterable]
        after_step(model)
    tensors |= {f"grad {n}": torch.zeros(()) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    tensors |= {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    with torch.no_grad():
        tensors["logits"] = model(ids)
        if model.graph.is_causal and backend == "auto":
            cache = model.cache(2, capacity=TOKENS)
            steps = [model(ids[:, start : start + n], cache=cache) for start, n in ((0, 11), (11, 1), (12, 3), (15, 1))]
            tensors["decoded"] = torch.cat(steps, dim=1)
            numbers.append(cache.bytes if hasattr(cache, "bytes") else 0)
    return Seen(tensors=tensors, numbers=numbers)


def fresh(architecture, weights, dtype):
    """A model built of an architecture, with the weights and buffers of another."""
    model = build(architecture, dtype=dtype, seed=1)
    copy_weights(weights, model)
    return model


def check(architecture, path, value, *, dtype="fp32", **how):
    target = with_values(architecture, {path: value})
    weights = build(architecture, dtype=dtype, seed=7)
    model = fresh(architecture, weights, dtype)
    before = seen_of(model, **how)  # whatever is kept between passes is kept by now
    copy_weights(weights, model)
    reshaping = Reshaping(model)
    reshaping.to(target)
    assert model.architecture == target
    after = seen_of(model, **how)
    built = seen_of(fresh(target, weights, dtype), **how)
    assert after.differs_from(built) == []
    assert after.differs_from(before), "the value changes nothing, so that this test would prove nothing"
    copy_weights(weights, model)
    reshaping.to(architecture)
    assert seen_of(model, **how).differs_from(before) == []


@pytest.mark.parametrize("name", CASES)
def test_a_reshaped_model_computes_the_bits_of_one_that_was_built_so(name):
    check(*CASES[name])


@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith(("sees", "attention sees", "softmax noise"))]
)
def test_in_bf16_and_with_layers_computed_again(name):
    check(*CASES[name], dtype="bf16", checkpointing="layers")


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("name", [name for name in CASES if "sees" in name and not name.startswith("mla")])
def test_in_every_backend_that_trains_on_a_cpu(name, backend):
    check(*CASES[name], backend=backend)


def test_sdpa_follows_where_it_may_be_asked():
    check(seeing("attention"), f"{M}.score_scale", 0.1, backend="sdpa")


def test_every_field_that_is_marked_is_among_these_cases():
    nodes = [*all_kinds(), *PARTS.values(), Block]
    marked = {(node, field) for node in nodes for field in marks_of(node)}
    covered = set()
    for architecture, path, _ in CASES.values():
        for field in fields_at(architecture, path):
            keys = field.path.split(".")
            if "sees" in keys:
                keys = keys[: keys.index("sees") + 1]
            node = architecture
            for key in keys[:-1]:
                node = node[key] if isinstance(node, dict) else getattr(node, key)
            covered.add((type(node), keys[-1]))
    assert {(node.__name__, field) for node, field in marked - covered} == set()


def test_every_argument_of_a_pattern_is_among_these_cases():
    known = {f"{entry.name}.{parameter.name}" for entry in NAMED.values() for parameter in entry.parameters}
    assert known <= set(ARGUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sees sliding.window", "rope theta", "attention logit_cap"])
# torch 2.13 crashes while it writes the compiled backward pass of such a model into its cache on the disk.
@torch._functorch.config.patch(enable_autograd_cache=False)
def test_a_compiled_model_follows_too(name):
    architecture, path, value = CASES[name]
    target = with_values(architecture, {path: value})
    weights = build(architecture, seed=7)
    found = []
    for first in (architecture, target):
        model = fresh(first, weights, "fp32")
        model.loss = torch.compile(model.loss)
        if first is architecture:
            seen_of(model)
            copy_weights(weights, model)
            Reshaping(model).to(target)
        found.append(seen_of(model))
    assert found[0].differs_from(found[1]) == []


def test_the_model_stays_as_it_is_when_the_new_shape_makes_no_sense():
    architecture = seeing("attention", sees='"causal & sliding(4)"')
    model = build(architecture)
    with pytest.raises(SpecError):
        Reshaping(model).to(with_values(architecture, {f"{M}.sees.sliding.window": 10_000}))
    assert model.architecture == architecture
    assert model.layers[0].mixer.pattern == architecture.blocks["a"].mixer.pattern()


def test_other_tensors_are_refused():
    model = build(spec_of())
    other = spec_of(ffn="{kind: swiglu, hidden: 32}")
    with pytest.raises(UsageError, match=r"layers\.0\.ffn"):
        Reshaping(model).to(other)
    assert model.architecture == spec_of()


def test_a_module_that_hides_a_tensor_in_its_attributes_is_refused(monkeypatch):
    from vitruvius.nn.positions.rope import RotaryPositionModule

    before = RotaryPositionModule.__init__

    def hides(self, spec, heads, scope, factory):
        before(self, spec, heads, scope, factory)
        self.table = torch.ones(3, device=factory["device"]) * spec.theta

    monkeypatch.setattr(RotaryPositionModule, "__init__", hides)
    model = build(spec_of())
    with pytest.raises(UsageError, match="keeps table as a tensor"):
        Reshaping(model).to(with_values(spec_of(), {f"{M}.position.theta": 9.0}))


def test_what_a_model_gathers_while_it_runs_stays():
    architecture = routed("softmax")
    model = build(architecture)
    model.train()
    after_step(model)
    ids = torch.zeros(1, 8, dtype=torch.int64)
    model.loss(ids, ids, signals=Signals())
    router = model.layers[0].ffn.router
    load = router.load_E.clone()
    assert int(load.sum()) == 16
    model.backend = "chunked"
    hook = router.register_forward_hook(lambda *_: None)
    Reshaping(model).to(with_values(architecture, {f"{R}.noise": 1.0}))
    assert torch.equal(router.load_E, load)
    assert model.backend == "chunked"
    assert len(router._forward_hooks) == 1
    hook.remove()
    assert isinstance(model, nn.Module)


def test_every_preset_can_be_reshaped_in_each_of_its_fields():
    for name in ("tiny-longcontext", "tiny-llama-moe", "tiny-qwen3-moe", "context-aware-decoder"):
        architecture = preset(name)
        model = build(architecture, device="meta")
        reshaping = Reshaping(model)
        for field in all_fields(architecture):
            if isinstance(field.value, (int, float)):
                value = max(1, field.value // 2) if field.mark.form == "count" else field.value / 2
                reshaping.to(with_values(architecture, {field.path: value}))
                assert fields_at(model.architecture, field.path)[0].value == value
