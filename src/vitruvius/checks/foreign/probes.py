"""The table of probes of foreign models, and the call that runs them in this process."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from sysconfig import get_path
from time import perf_counter
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from vitruvius.checks.foreign import behaviour, learning, looking, numbers, slopes, structure
from vitruvius.checks.foreign.adapter import Foreign, settings_kept
from vitruvius.checks.foreign.facts import facts_of
from vitruvius.checks.foreign.outputs import NoLogitsError
from vitruvius.checks.outcome import Outcome, Report, does_not_apply, failed
from vitruvius.checks.table import PROBES, named, one_thread
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from vitruvius.checks.outcome import Measure

GATE = "output-shape"
"""Without logits of the right shape no other probe can say anything."""
LOADS = "loads"
"""What a process of its own says first; in this process there is nothing to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignProbe:
    """One line of the table."""

    name: str
    run: Callable[[Foreign], Measure]
    means: str
    """What a failure would mean for whoever uses the model."""
    look_at: str
    """Where to look when it fails."""


_OWN: tuple[ForeignProbe, ...] = (
    ForeignProbe(
        name=GATE,
        run=structure.output_shape,
        means="the model does not return one row of logits per token; losses and samplers will misread it",
        look_at="what forward returns, its axes, and vocab_size",
    ),
    ForeignProbe(
        name="parameters",
        run=structure.parameters,
        means="some weights are neither saved, moved nor trained, or a table that is to be shared is there twice",
        look_at="lists that should be nn.ModuleList or nn.ParameterList; post_init() and tie_weights()",
    ),
    ForeignProbe(
        name="future-leak",
        run=behaviour.future_leak,
        means="a token's logits depend on later tokens: training loss will look too good and generation will be bad",
        look_at="the causal mask, convolutions without left padding, norms or routing over time",
    ),
    ForeignProbe(
        name="attention-distribution",
        run=looking.attention_distribution,
        means="attention weights are no distribution over the keys that a query may see",
        look_at="the softmax's axis, what is added to masked scores, dropout after the softmax in eval mode",
    ),
    ForeignProbe(
        name="receptive-field",
        run=looking.receptive_field,
        means="gradients flow from later tokens, or do not reach a token's own embedding",
        look_at="the causal mask, shifts by one, detached tensors, residual connections",
    ),
    ForeignProbe(
        name="backends",
        run=looking.backends,
        means="the fast attention computes something else than the readable one",
        look_at="what is passed to scaled_dot_product_attention: mask, is_causal, scale, grouped heads",
    ),
    ForeignProbe(
        name="cached-decode",
        run=behaviour.cached_decode,
        means="generation sees other logits than training did",
        look_at="what is appended to the cache, positions of new tokens, the mask of a chunk after a prefill",
    ),
    ForeignProbe(
        name="batch-invariance",
        run=behaviour.batch_invariance,
        means="an answer depends on who else is in the batch",
        look_at="anything that reduces over the batch axis: norms, routing, capacity limits",
    ),
    ForeignProbe(
        name="padding-invariance",
        run=behaviour.padding_invariance,
        means="padding changes answers",
        look_at="layers that never receive attention_mask, its sign, positions counted from the start of the row",
    ),
    ForeignProbe(
        name="packed-documents",
        run=behaviour.packed_documents,
        means="documents packed into one row see each other",
        look_at="the same-document mask, state carried over a boundary",
    ),
    ForeignProbe(
        name="gradients",
        run=learning.gradients,
        means="a parameter never learns, or makes the others NaN",
        look_at="unused or detached parameters, branches multiplied by zero, experts without tokens",
    ),
    ForeignProbe(
        name="derivative",
        run=slopes.derivative,
        means="training follows something else than the slope of the loss",
        look_at="detach and no_grad in a branch, a backward pass written by hand, values changed in place",
    ),
    ForeignProbe(
        name="loss",
        run=learning.loss,
        means="the training loss is not the cross-entropy that callers of `labels` expect",
        look_at="the shift of labels, the label -100, the mean over tokens",
    ),
    ForeignProbe(
        name="init-loss",
        run=learning.init_loss,
        means="the fresh model is confidently wrong, and the first steps are spent on undoing that",
        look_at="the standard deviation of the embedding and the head, and whether tying draws a matrix twice",
    ),
    ForeignProbe(
        name="init-scale",
        run=slopes.init_scale,
        means="signals or gradients explode or vanish with depth before the first step",
        look_at="first weights and what scales them by the depth, the place of the norms, residual connections",
    ),
    ForeignProbe(
        name="overfits",
        run=learning.overfits,
        means="the model cannot even memorise a few tokens",
        look_at="detached tensors, a saturated softmax or gate, norms that divide the signal away",
    ),
    ForeignProbe(
        name="bf16",
        run=numbers.bf16,
        means="half precision loses the answer",
        look_at="sums, norms, softmax or routing that leave fp32; activations far above one",
    ),
    ForeignProbe(
        name="no-nan",
        run=numbers.no_nan,
        means="some inputs give NaN or infinity",
        look_at="softmax over nothing, divisions by a norm of zero, exponentials without a maximum taken off",
    ),
    ForeignProbe(
        name="adversarial",
        run=numbers.adversarial,
        means="odd texts break the model",
        look_at="exponentials of sums, divisions by what a gate has closed, counters that saturate",
    ),
    ForeignProbe(
        name="length-stress",
        run=numbers.length_stress,
        means="long sequences overflow, or are decoded otherwise than they are read",
        look_at="tables of positions and their limits, sums over the sequence, what the cache drops",
    ),
    ForeignProbe(
        name="determinism",
        run=structure.determinism,
        means="the same question gets another answer, so no result can be repeated",
        look_at="dropout that ignores eval(), random numbers in forward, state kept between calls",
    ),
    ForeignProbe(
        name="side-effects",
        run=structure.side_effects,
        means="using the model changes what other code in the process computes",
        look_at="set_default_dtype, set_num_threads, manual_seed and set_grad_enabled in forward",
    ),
    ForeignProbe(
        name="round-trip",
        run=structure.round_trip,
        means="a checkpoint does not hold the whole model",
        look_at="state that matters and is no parameter or persistent buffer; weights shared under two names",
    ),
)


def _table() -> dict[str, ForeignProbe]:
    """Our own probes' names in their order, then those that only foreign models have.

    A probe that holds the module against its spec is skipped with that reason.
    """
    own = {probe.name: probe for probe in _OWN}
    skipped = {
        probe.name: ForeignProbe(name=probe.name, run=structure.without_spec, means=probe.means, look_at=probe.look_at)
        for probe in PROBES
        if probe.name not in own
    }
    order = dict.fromkeys((*(probe.name for probe in PROBES), *own))
    order.pop(GATE)
    known = own | skipped
    return {name: known[name] for name in (GATE, *order)}


_LOADS = ForeignProbe(
    name=LOADS,
    run=structure.without_spec,
    means="there is no model to use",
    look_at="the factory's own code, or the folder's config.json beside its weights",
)

_APART = frozenset(
    {
        GATE,
        "parameters",
        "init-loss",
        "init-scale",
        "overfits",
        "no-nan",
        "adversarial",
        "determinism",
        "side-effects",
        "round-trip",
    }
)

NEEDS_PRECISION: frozenset[str] = frozenset(probe.name for probe in _OWN) - _APART
"""Probes that run in the finest precision the model has."""

FOREIGN_PROBES: dict[str, ForeignProbe] = _table()
"""Every probe of a foreign model by name, in the order of the report; the first decides whether the others run."""


def check_module(
    module: nn.Module,
    *,
    seed: int = 0,
    only: Sequence[str] | None = None,
    **given: Any,
) -> Report:
    """Probe any torch module from token ids to logits, in this process, on copies of it.

    `given` may say `vocab_size`, `causal`, `context`, `weights` ("first" or "trained") and `name`; what is not said is
    read off the module's config or its embedding. Raises UsageError for an unknown probe, a wrong value, or a module
    that cannot be copied. A probe that meets any other exception has failed and says which.
    """
    chosen = chosen_names(only)
    subject = Foreign(module, facts_of(module, given, where=type(module).__name__), seed=seed)
    with settings_kept(), one_thread():
        outcomes = tuple(outcomes_of(subject, chosen))
    return Report(subject=subject.description, seed=seed, checks=outcomes)


def chosen_names(only: Sequence[str] | None) -> list[str]:
    """The probes to run, in order; that it loads is always told. Raises UsageError naming near ones."""
    return [name for name in named((LOADS, *FOREIGN_PROBES), only) if name != LOADS]


def outcomes_of(subject: Foreign, chosen: Sequence[str]) -> Iterator[Outcome]:
    """The outcome of each chosen probe; without logits the others are told not to have run."""
    gate = judged(GATE, subject)
    if GATE in chosen or not gate.passed:
        yield gate
    for name in chosen:
        if name != GATE:
            yield judged(name, subject) if opens(gate) else not_run(name, f"not run: {GATE} failed")


def opens(gate: Outcome) -> bool:
    """Whether there are logits to examine: their number may be wrong and the model still say much."""
    return gate.passed or "gave logits" in gate.detail


def judged(name: str, subject: Foreign) -> Outcome:
    """Run one probe; whatever a foreign model raises is a failure of it, not the end of the report."""
    probe, start = FOREIGN_PROBES[name], perf_counter()
    note = ""
    try:
        with settings_kept():
            measure = probe.run(subject)
            if name in NEEDS_PRECISION and measure.applies:
                note = subject.precision.short
    except (UsageError, KeyboardInterrupt):
        raise
    except NoLogitsError as error:
        measure = failed(str(error))
    except BaseException as error:  # noqa: BLE001 (a foreign model may raise anything, SystemExit included)
        measure = failed(f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}{_raised_at(error)}")
        probe = _silent(probe)
    if note:
        measure = replace(measure, detail=f"{measure.detail} ({note})")
    return _outcome(probe, measure, perf_counter() - start)


def _raised_at(error: BaseException) -> str:
    """` (model.py, line 12 in forward)`: the last frame that is neither ours nor a library's."""
    frames = [frame for frame in extract_tb(error.__traceback__) if is_theirs(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno} in {frames[-1].name})" if frames else ""


def is_theirs(path: str) -> bool:
    """Whether a source file is neither Python's, nor an installed library's, nor ours."""
    home = str(Path(__file__).resolve().parents[2])
    ours = path.startswith((home, get_path("stdlib"), "<")) or "site-packages" in path or "dist-packages" in path
    return not ours


def not_run(name: str, reason: str) -> Outcome:
    """The outcome of a probe that could not be run."""
    return _outcome(FOREIGN_PROBES[name], does_not_apply(reason), 0.0)


def fallen(name: str, reason: str, seconds: float) -> Outcome:
    """The outcome of a probe during which the process ended or hung."""
    return _outcome(_silent(FOREIGN_PROBES[name]), failed(reason), seconds)


def _silent(probe: ForeignProbe) -> ForeignProbe:
    """The probe as it is told when the model gave no answer: what its failure would mean is not known."""
    means = "the model's own code broke off, so that what this examines is not known"
    return replace(probe, means=means, look_at="what the model does with these inputs, at the line named above")


def judged_as(name: str, measure: Measure, seconds: float) -> Outcome:
    """The outcome of a measurement made elsewhere: whether the model loads."""
    return _outcome(_LOADS if name == LOADS else FOREIGN_PROBES[name], measure, seconds)


def _outcome(probe: ForeignProbe, measure: Measure, seconds: float) -> Outcome:
    shared = {field.name for field in fields(measure)}
    return Outcome(
        name=probe.name,
        means=probe.means,
        look_at=probe.look_at,
        seconds=seconds,
        **{name: getattr(measure, name) for name in shared},
    )
