"""Probes of foreign models: gradients, the training loss, the first loss, and the ability to learn."""

from __future__ import annotations

from math import isfinite, log
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.checks.compare import gap
from vitruvius.checks.foreign.outputs import named_in, tensors_in
from vitruvius.checks.foreign.precision import lifted
from vitruvius.checks.foreign.structure import listed
from vitruvius.checks.learning import (
    DEAD,
    INIT_NATS,
    OVERFIT_LEFT,
    OVERFIT_RATE,
    chance_in_few_tokens,
)
from vitruvius.checks.outcome import Measure, does_not_apply, failed, passed, within

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitruvius.checks.foreign.adapter import Foreign

OVERFIT_STEPS = 150
"""More than our own models get: what others make may learn slowly, and is stopped as soon as it has learnt."""
_BATCHES = 8
"""Batches whose gradients are added up until every tensor has one: experts without a token wait for another batch."""
_VALUES = 2**25
"""Logits of which the first loss is a mean: a quarter of a gigabyte in fp64."""
_WIDE_LOGITS = 1.0
_IGNORED = -100


def _targets(subject: Foreign, tokens_BT: Tensor) -> tuple[slice, Tensor]:
    """Which logits are read, and what they are to predict: the next token, or for others a token of another row."""
    if subject.facts.causal and not subject.facts.encoder_decoder:
        return slice(None, -1), tokens_BT[:, 1:]
    return slice(None), tokens_BT.roll(1, dims=0).roll(3, dims=1)


def cross_entropy(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Of the logits and what they are to predict."""
    read, targets = _targets(subject, tokens_BT)
    return F.cross_entropy(subject.own_logits(model, tokens_BT)[:, read].flatten(0, 1), targets.flatten())


def gradients(subject: Foreign) -> Measure:
    """Each parameter tensor has a finite, non-zero gradient."""
    model = subject.exact()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        return does_not_apply("no parameter asks for a gradient: the model is frozen")
    for batch in range(_BATCHES):
        with lifted(subject.precision), torch.enable_grad():
            value = _objective(subject, model, subject.tokens(4, subject.length, salt=20 + batch))
            if not value.requires_grad:
                return failed("the logits have no gradient: forward runs under no_grad, or detaches what it computes")
            value.backward()
        wrong, faint = _ill(trained)
        if not wrong or any("not finite" in text for text in wrong):
            break
    if wrong:
        return failed(f"{listed(wrong)}")
    detail = f"{len(trained)} tensors" + (f"; {batch + 1} batches until each had one" if batch else "")
    warning = ""
    if faint:
        warning = f"rounding is all there is of the gradient of {listed(faint)}: their effect cancels out"
    return passed(detail, warning=warning)


def _objective(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The cross-entropy; of a body, which predicts nothing, a sum in which every value has its own weight."""
    if not subject.facts.headless:
        return cross_entropy(subject, model, tokens_BT)
    parts = [part for part in tensors_in(subject.forward(model, tokens_BT)) if part.is_floating_point()]
    found = [(part.flatten(1) * torch.linspace(0.5, 1.5, part[0].numel()).to(part)).sin().mean() for part in parts]
    return torch.stack(found).sum()


def _ill(trained: dict[str, nn.Parameter]) -> tuple[list[str], list[str]]:
    """(what is wrong, names whose gradient is nothing but rounding)."""
    largest = max(
        (float(p.grad.abs().max()) for p in trained.values() if p.grad is not None and p.grad.numel()), default=0.0
    )
    eps = max((torch.finfo(p.dtype).eps for p in trained.values() if p.is_floating_point()), default=0.0)
    nothing = max(DEAD, eps * 1e-3) * largest if isfinite(largest) else 0.0
    wrong: list[str] = []
    faint: list[str] = []
    for name, parameter in trained.items():
        gradient = parameter.grad
        if gradient is None:
            wrong.append(f"{name} takes no part in the loss")
        elif not gradient.isfinite().all():
            wrong.append(f"{name} has a gradient that is not finite")
        elif not gradient.abs().max() > 0:
            wrong.append(f"{name} has a gradient of zero")
        elif not gradient.abs().max() > nothing:
            faint.append(name)
    return wrong, faint


def loss(subject: Foreign) -> Measure:
    """The loss that comes with labels is the cross-entropy of the logits, shifted inside where the model is causal."""
    name = subject.call.targets
    if name is None:
        return does_not_apply("forward takes no labels")
    if subject.facts.headless:
        return does_not_apply("a body without a head")
    model, tokens = subject.exact(), subject.tokens(2, subject.length, salt=4)
    labels = tokens.clone() if subject.facts.causal else tokens.roll(1, dims=0)
    ignoring = name == "labels"
    if ignoring:
        labels[0, : labels.shape[1] // 3] = _IGNORED
    more = {"output_router_logits": False} if subject.call.accepts("output_router_logits") else {}
    with torch.no_grad(), lifted(subject.precision):
        output = subject.forward(model, tokens, **{name: labels}, **more)
        found = _scalar(output)
        if found is None:
            return does_not_apply(f"forward takes {name} and gives no loss back")
        logits = subject.own_logits(model, tokens)
        shifted = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        aligned = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
    # Only `labels` promises that the shift happens inside; `targets` are what the caller has shifted.
    inside = subject.facts.shifts and not subject.facts.encoder_decoder and ignoring
    right, other = (shifted, aligned) if inside else (aligned, shifted)
    most, bound = gap(found.double(), right.double()), max(subject.precision.bound, 1e-9)
    what = "the next token" if inside else "the token at the same place"
    if most <= bound:
        counted = ", labels of -100 not counted" if ignoring else ""
        return within(most, bound, f"the mean cross-entropy of {what}{counted}")
    if gap(found.double(), other.double()) <= bound:
        wrong = "labels are not shifted inside: each token is to predict itself" if inside else "labels are shifted"
        return failed(wrong, measured=most, bound=bound)
    if ignoring and _counts_ignored(found, logits, labels, inside=inside, bound=bound):
        return failed("labels of -100 are counted", measured=most, bound=bound)
    return failed(
        f"loss {float(found):.4f}, and the cross-entropy of {what} is {float(right):.4f}", measured=most, bound=bound
    )


def _scalar(output: object) -> Tensor | None:
    found = named_in(output, ("loss",))
    parts = [found] if found is not None else list(output) if isinstance(output, tuple | list) else []
    for part in parts:
        if isinstance(part, torch.Tensor) and part.numel() == 1 and part.is_floating_point():
            return part.reshape(())
    return None


def _counts_ignored(found: Tensor, logits: Tensor, labels: Tensor, *, inside: bool, bound: float) -> bool:
    """Whether the loss is a mean over all places, those that should not count included."""
    read = slice(None, -1) if inside else slice(None)
    targets = labels[:, 1:] if inside else labels
    kept = F.cross_entropy(logits[:, read].flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="sum")
    return gap(found.double(), (kept / targets.numel()).double()) <= bound


def init_loss(subject: Foreign) -> Measure:
    """A fresh model knows nothing: its loss is ln(vocabulary) plus half the variance of its logits."""
    if subject.facts.headless:
        return does_not_apply("a body without a head")
    model, drawn = subject.fresh(subject.seed), "first weights drawn again"
    if model is None:
        if subject.facts.weights == "trained":
            return does_not_apply("trained weights, and how to draw first ones is not known")
        model, drawn = subject.copy(), "the weights as given; trained ones are no fault, say weights='trained'"
    count = min(1024, _VALUES // subject.facts.vocab_size)
    tokens = subject.tokens(max(1, count // subject.length), subject.length, salt=5)
    with torch.no_grad():
        logits = subject.own_logits(model, tokens)
    return first_loss(logits, told=f"; {drawn}")


def first_loss(logits_BTV: Tensor, *, told: str = "") -> Measure:
    """The expected loss of these logits over all targets, held against ln(vocabulary) + s^2 / 2."""
    logits = logits_BTV.double()
    spread = logits.var(dim=-1, correction=0).mean().sqrt().item()
    # Every token being as likely, the expectation over targets is the mean logit.
    first = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean().item()
    vocabulary = logits.shape[-1]
    expected = log(vocabulary) + spread**2 / 2
    detail = f"loss {first:.4f}, ln({vocabulary:,}) + s^2/2 = {expected:.4f} with s = {spread:.3f}{told}"
    warning = ""
    if spread > _WIDE_LOGITS:
        warning = f"logits spread by s = {spread:.2f} at first; above 1 the first steps only undo that (smaller init?)"
    bound = INIT_NATS + chance_in_few_tokens(spread, vocabulary)
    return within(abs(first - expected), bound, detail, warning=warning)


def overfits(subject: Foreign) -> Measure:
    """Plain AdamW in fp32 brings the loss on one small batch well down: information and gradients flow."""
    if subject.facts.headless:
        return does_not_apply("a body without a head")
    model = (subject.fresh(subject.seed) or subject.copy()).to(torch.float32).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        return does_not_apply("no parameter asks for a gradient: the model is frozen")
    tokens = subject.tokens(2, max(2, min(subject.length, 17)), salt=7)
    optimizer = torch.optim.AdamW(trained, lr=OVERFIT_RATE, weight_decay=0.0, foreach=True)
    first, last, step = 0.0, 0.0, 0
    with torch.enable_grad():
        for step in range(OVERFIT_STEPS + 1):
            value = cross_entropy(subject, model, tokens)
            last = value.item()
            first = last if step == 0 else first
            if not last > OVERFIT_LEFT * first:
                break
            if not value.requires_grad:
                return failed("the loss has no gradient: forward runs under no_grad, or detaches what it computes")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
    detail = f"loss {first:.3f} -> {last:.3f} in {step} steps on {tokens.numel()} tokens"
    return within(last / first if first else 0.0, OVERFIT_LEFT, detail)
