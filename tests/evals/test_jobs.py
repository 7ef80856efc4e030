"""What is timed is what is said to be: the same tokens, caches as long as promised, memory as sizing counts it."""

from __future__ import annotations

import pytest
import torch

from vitruvius.evals.jobs import DECODE_PHASE, PREFILL_PHASE, Subject
from vitruvius.evals.memory import storage_bytes
from vitruvius.evals.work import Task, amount_of, bound_of, held_bytes
from vitruvius.inference import Generation, Sampler
from vitruvius.lab.steps import PHASES
from vitruvius.nn import build
from vitruvius.sizing import kv_cache_bytes, state_bytes, weights_bytes
from vitruvius.sizing.hardware import device_named
from vitruvius.spec import preset, preset_names, resolve, shrink

pytestmark = pytest.mark.usefixtures("one_thread")


def subject(name, *, batch=2, dtype="bf16", backend="auto"):
    architecture = preset(name)
    if not name.startswith("tiny"):
        architecture = shrink(architecture)
    model = build(architecture, dtype=dtype).eval()
    return Subject(name=name, model=model, batch=batch, backend=backend, seed=3)


@pytest.mark.parametrize("name", preset_names())
def test_every_phase_runs_again_and_again_on_every_preset(name):
    who = subject(name)
    graph = who.model.graph
    for phase in PHASES.values():
        if phase.refusal(graph):
            assert phase.name == "decode" and not graph.is_causal
            continue
        job = phase.prepare(who, 17)
        for _ in range(2):
            job.reset()
            job.run()
        task = Task(graph=graph, phase=phase.name, length=17, batch=2, dtype="bf16")
        assert job.tokens == amount_of(task).tokens
        assert amount_of(task).flops > 0
        bound = bound_of(task, device_named("h100-80gb"))
        assert bound is None or 0 < bound.seconds <= bound.expected_seconds


@pytest.mark.parametrize("name", ["tiny-longcontext", "gated-deltanet-hybrid", "deepseek-v3"])
@pytest.mark.parametrize("phase", [PREFILL_PHASE, DECODE_PHASE], ids=lambda phase: phase.name)
def test_what_a_job_holds_is_weights_and_cache_to_the_byte(name, phase):
    who = subject(name)
    graph = who.model.graph
    numbers = (graph, 40, 2, "bf16")
    exact = weights_bytes(graph, "bf16") + kv_cache_bytes(*numbers) + state_bytes(*numbers)
    apart = 2 * sum(tensor.count for tensor in graph.mtp_tensors().values())
    apart += sum(buffer.numel() * buffer.element_size() for buffer in who.model.buffers())
    assert storage_bytes(phase.prepare(who, 40).held()) == exact + apart
    assert held_bytes(Task(graph=graph, phase=phase.name, length=40, batch=2, dtype="bf16")) == exact


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_what_training_holds_is_weights_masters_and_moments(dtype):
    who = subject("tiny-llama", dtype=dtype)
    job = PHASES["train"].prepare(who, 16)
    task = Task(graph=who.model.graph, phase="train", length=16, batch=2, dtype=dtype)
    assert abs(storage_bytes(job.held()) - held_bytes(task)) <= 64  # the count of steps


def test_prefill_leaves_the_cache_that_generating_leaves():
    who = subject("tiny-longcontext", batch=1, dtype="fp32")
    job = PREFILL_PHASE.prepare(who, 600)  # two pieces
    job.reset()
    job.run()
    assert job.cache.lengths == [600]
    generation = Generation(who.model, who.tokens(600)[0].tolist(), max_tokens=1, sampler=Sampler(temperature=0.0))
    (token,) = list(generation)
    after = who.model.cache(1, capacity=600)
    with torch.inference_mode():
        for piece in who.tokens(600).split(512, dim=1):
            h = who.model.hidden(piece, cache=after)
        logits = who.model.head(h[:, -1:], who.model.embedding.tokens.weight)
    assert int(logits.argmax()) == token
    for mine, theirs in zip(job.cache.parts(), after.parts(), strict=True):
        for one, other in zip(mine.tensors(), theirs.tensors(), strict=True):
            assert torch.equal(one, other)


def test_a_decoding_step_ends_with_the_context_that_was_asked_for():
    who = subject("tiny-longcontext")
    job = DECODE_PHASE.prepare(who, 100)
    for _ in range(3):
        job.reset()
        assert job.cache.lengths == [99, 99]
        job.run()
        assert job.cache.lengths == [100, 100]
    # Random numbers, not fresh zeros: the system would keep one page for all of those.
    assert all(tensor.count_nonzero() > 0.9 * tensor.numel() for part in job.cache.parts() for tensor in part.tensors())


def test_a_long_prompt_is_recorded_at_its_end():
    who = subject("tiny-longcontext", batch=1)
    job = PREFILL_PHASE.prepare(who, 1600)
    assert job.sample().covers == ""
    long = PREFILL_PHASE.prepare(who, 512 * 8 + 700)
    sample = long.sample()
    assert sample.covers == f"the last {512 * 8 + 188:,} of {512 * 8 + 700:,} tokens"


def test_training_as_it_is_timed_moves_the_weights_hardly_at_all():
    who = subject("tiny-llama", dtype="fp32")
    before = [parameter.detach().clone() for parameter in who.model.parameters()]
    job = PHASES["train"].prepare(who, 16)
    for _ in range(5):
        job.reset()
        job.run()
    moved = [(a - b).abs().max() for a, b in zip(before, who.model.parameters(), strict=True)]
    assert 0 < max(moved) < 1e-4
    assert all(parameter.grad is None for parameter in who.model.parameters())


def test_the_backend_is_that_of_the_subject_even_where_two_share_a_model():
    first = subject("tiny-llama")
    second = Subject(name="other", model=first.model, batch=2, backend="reference", seed=0)
    jobs = [PREFILL_PHASE.prepare(who, 8) for who in (first, second)]
    for job, backend in zip([*jobs, *jobs], ["auto", "reference"] * 2, strict=True):
        job.reset()
        assert first.model.backend == backend


def test_operations_of_a_step_are_what_the_last_token_adds():
    graph = resolve(preset("tiny-longcontext"))
    whole, less = (amount_of(Task(graph=graph, phase="prefill", length=n, batch=1, dtype="bf16")) for n in (300, 299))
    step = amount_of(Task(graph=graph, phase="decode", length=300, batch=4, dtype="bf16"))
    head = graph.architecture.head.flops(graph.scope, 1).useful
    assert step.flops == 4 * (whole.flops - less.flops + head)
    assert step.exact
    train = amount_of(Task(graph=graph, phase="train", length=300, batch=4, dtype="bf16"))
    assert train.flops == 4 * 3 * graph.flops(300).useful
