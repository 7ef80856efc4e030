"""The table of probes, and `check`, which runs them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitruvius.checks import (
    adversarial,
    attention,
    causality,
    cost,
    decoding,
    depth,
    learning,
    numerics,
    receptive,
    routing,
    stress,
    structure,
    wiring,
)
from vitruvius.checks.outcome import Measure, Outcome, Report, failed
from vitruvius.checks.subject import Subject, subject_of
from vitruvius.errors import UsageError
from vitruvius.nn import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from vitruvius.spec import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One line of the table."""

    name: str
    """As `--only` takes it."""
    run: Callable[[Subject], Measure]
    """Examines a subject."""
    means: str
    """What a failure would mean for whoever uses the model."""
    look_at: str
    """Where to look when it fails."""

    @property
    def about(self) -> str:
        """One line on what is examined."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


PROBES: tuple[Probe, ...] = (
    Probe(
        name="output-shape",
        run=structure.output_shape,
        means="the model does not return one row of logits per token; losses and samplers will misread it",
        look_at="the head's forward, and any reshape in a mixer or ffn",
    ),
    Probe(
        name="parameters",
        run=structure.parameters,
        means="the module holds other tensors than the spec counts, so every printed size is wrong",
        look_at="tensors() of the kind against the parameters its module registers, name by name",
    ),
    Probe(
        name="cache-bytes",
        run=structure.cache_bytes,
        means="the decode cache takes other memory than size prints, so a plan that fits may not",
        look_at="state_tensors() of the mixer against its decode_state()",
    ),
    Probe(
        name="future-leak",
        run=causality.future_leak,
        means="a token's logits depend on later tokens: training loss will look too good and generation will be bad",
        look_at="the mixer's mask or pattern, convolutions without left padding, norms or routing over time",
    ),
    Probe(
        name="attention-pattern",
        run=causality.attention_rows,
        means="attention does not follow the declared pattern, so FLOPs, cache and picture describe another model",
        look_at="the mixer's pattern against `sees`, and the softmax over masked scores",
    ),
    Probe(
        name="attention-distribution",
        run=attention.attention_distribution,
        means="heads start as an argmax or deaf to the text, and learn slowly or not at all",
        look_at="the scale of the scores, the init of queries and keys, biases and gates of the position",
    ),
    Probe(
        name="receptive-field",
        run=receptive.receptive,
        means="information travels other ways through the stack than the layers' patterns promise together",
        look_at="keys borrowed from another layer, cross-attention, convolutions, leaks beside the attention weights",
    ),
    Probe(
        name="residual",
        run=wiring.residual,
        means="layers do not add up as the picture shows, and deep stacks will not train",
        look_at="nn/block.py: what is added to what, the place of the norms, residual scales",
    ),
    Probe(
        name="backends",
        run=causality.backends,
        means="the fast path computes something else than the readable one",
        look_at="nn/backends/chunked.py and sdpa.py against reference.py",
    ),
    Probe(
        name="experts",
        run=causality.experts,
        means="training computes other mixtures than the readable loop does",
        look_at="grouped against looped in nn/ffn/moe.py: offsets, transposes, biases, empty experts",
    ),
    Probe(
        name="routing",
        run=routing.routing,
        means="experts are weighed wrongly, or the load will drift to a few of them",
        look_at="the router: what it normalises, its precision, where the bias is added, after_step",
    ),
    Probe(
        name="cached-decode",
        run=decoding.cached_decode,
        means="generation sees other logits than training did",
        look_at="the mixer's decode state: what it evicts, the positions it rotates by, counts of padded rows",
    ),
    Probe(
        name="batch-invariance",
        run=decoding.batch_invariance,
        means="an answer depends on who else is in the batch",
        look_at="anything that reduces over the batch axis: norms, routing, dropped tokens",
    ),
    Probe(
        name="padding-invariance",
        run=decoding.padding_invariance,
        means="padding changes answers",
        look_at="positions counted from the start of the row, masks that forget documents, reductions over time",
    ),
    Probe(
        name="packed-documents",
        run=decoding.packed_documents,
        means="documents packed into one row see each other",
        look_at="the same-document mask, positions that do not restart, state carried over a boundary",
    ),
    Probe(
        name="gradients",
        run=learning.gradients,
        means="a parameter never learns, or makes the others NaN",
        look_at="unused, frozen or detached parameters; routers whose weights are constant; experts without tokens",
    ),
    Probe(
        name="derivative",
        run=wiring.derivative,
        means="training follows something else than the slope of the loss",
        look_at="detach and no_grad in a branch, a backward pass written by hand, values changed in place",
    ),
    Probe(
        name="tokens-ahead",
        run=wiring.tokens_ahead,
        means="multi-token prediction reads its own answer, and its loss means nothing",
        look_at="nn/mtp.py: which embeddings and targets are shifted by how much",
    ),
    Probe(
        name="loss",
        run=learning.loss_path,
        means="the training loss is not the cross-entropy of the logits",
        look_at="the head's loss against its forward: soft cap, tying, ignored targets",
    ),
    Probe(
        name="init-loss",
        run=learning.init_loss,
        means="the fresh model is confidently wrong, and the first steps are spent on undoing that",
        look_at="init, the embedding's scale, and whether tying draws a matrix twice",
    ),
    Probe(
        name="init-scale",
        run=depth.init_scale,
        means="signals or gradients explode or vanish with depth before the first step",
        look_at="init and what it scales by the depth, the place of the norms, residual scales, recurrences",
    ),
    Probe(
        name="overfits",
        run=learning.overfit,
        means="the model cannot even memorise a few tokens",
        look_at="detached tensors, a saturated softmax or gate, norms that divide the signal away",
    ),
    Probe(
        name="bf16",
        run=numerics.bf16,
        means="half precision loses the answer",
        look_at="sums, norms, softmax or routing that leave fp32; activations far above one",
    ),
    Probe(
        name="no-nan",
        run=numerics.no_nan,
        means="some inputs give NaN or infinity",
        look_at="softmax over nothing, divisions by a norm of zero, exponentials without a maximum taken off",
    ),
    Probe(
        name="adversarial",
        run=adversarial.adversarial,
        means="odd texts, or gates that training has driven to their ends, break the model or its decoding",
        look_at="exponentials of sums of decays, divisions by what a gate has closed, counters that saturate",
    ),
    Probe(
        name="length-stress",
        run=stress.length_stress,
        means="long sequences overflow, or positions lose their digits towards the end of the declared context",
        look_at="angles and sums over the sequence that are not in fp64 or fp32, tables and scalings at their limits",
    ),
    Probe(
        name="flops",
        run=cost.flops,
        means="predicted speed and training cost are wrong",
        look_at="flops() of the kind against the products its module computes on the reference path",
    ),
    Probe(
        name="positions",
        run=structure.position_overflow,
        means="long sequences fail without saying why, or read rows that are not there",
        look_at="the position's limit against the context",
    ),
    Probe(
        name="determinism",
        run=structure.determinism,
        means="a seed does not name one model, so no result can be repeated",
        look_at="random numbers outside the generator; sums whose order is not fixed",
    ),
    Probe(
        name="round-trip",
        run=structure.round_trip,
        means="a checkpoint does not hold the whole model",
        look_at="state that matters and is no parameter; weights shared under two names",
    ),
)
"""Every probe, in the order of the report: what the model is, what it computes, how it learns, what it costs."""

_BY_NAME = {probe.name: probe for probe in PROBES}


def check(
    examined: Architecture | nn.Module,
    *,
    seed: int = 0,
    only: Sequence[str] | None = None,
    longest: int | None = None,
    **about: Any,
) -> Report:
    """Probe an architecture, a model built from one, or any torch module, and report what holds.

    What is too big to run in double precision is probed through its twin (`vitruvius.shrink`), and the report says so;
    parameters and cache are examined at full size all the same. `only` names the probes to run.
    `longest` lets length-stress run up to that many tokens, however long it takes.

    A module that is not ours is probed as it is; `about` says what its config or embedding does not tell, see
    `checks.foreign.check_module`: `vocab_size`, `causal`, `context`, `weights`, `name`.

    Raises SpecError when the architecture does not fit together, UsageError for an unknown probe or a model without
    values. A probe that meets any other exception has failed and says which.
    """
    if isinstance(examined, nn.Module) and not isinstance(examined, Model):
        from vitruvius.checks.foreign import check_module

        return check_module(examined, seed=seed, only=only, **about)
    chosen = named(_BY_NAME, only)
    if about:
        raise UsageError(f"{', '.join(about)}: an architecture tells that itself", fix="leave it out")
    subject = replace(subject_of(examined, seed), longest=longest)
    with one_thread():
        outcomes = tuple(judge(name, lambda p=_BY_NAME[name]: p.run(subject), perf_counter) for name in chosen)
    return Report(subject=subject.description, seed=seed, checks=outcomes)


@contextmanager
def one_thread() -> Iterator[None]:
    """What is probed is small: more threads would wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def named(known: Collection[str], only: Iterable[str] | None) -> list[str]:
    """The chosen names in the order of the table. Raises UsageError naming near ones."""
    if only is None:
        return list(known)
    asked = list(only)
    for name in asked:
        if name not in known:
            near = get_close_matches(name, known, n=2, cutoff=0.4)
            fix = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}"
            raise UsageError(f"there is no check {name!r}", fix=fix)
    return [name for name in known if name in asked]


def judge(name: str, run: Callable[[], Measure], clock: Callable[[], float]) -> Outcome:
    """Run one probe; whatever a component raises is a failure of that component, not the end of the report."""
    probe, start = _BY_NAME[name], clock()
    try:
        measure = run()
    except Exception as error:  # noqa: BLE001 (a user's component may raise anything)
        measure = failed(f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Outcome(
        name=name,
        passed=measure.passed,
        detail=measure.detail,
        measured=measure.measured,
        bound=measure.bound,
        applies=measure.applies,
        warning=measure.warning,
        values=measure.values,
        means=probe.means,
        look_at=probe.look_at,
        seconds=clock() - start,
    )
