"""Probes of routers: what weights add up to, in which precision, and what balances the load."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.compare import EXACT, gap, worst_in
from vitruvius.checks.outcome import Measure, by_layer, does_not_apply, failed, passed, within
from vitruvius.nn import Signals
from vitruvius.nn.place import Place
from vitruvius.nn.updates import after_step
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.spec import Layer

PRECISE = 1e-5
"""How far weights of a bf16 model may lie from fp64 on the same numbers: fp32 leaves 1e-6, bf16 4e-3."""
_OURS = "vitruvius."
_TOKENS = 96
_STRONG = 1e4


def routing(subject: Subject) -> Measure:
    """Routers choose distinct experts, weigh them in full precision to the declared sum, and balance the right way."""
    layers = [layer for layer in subject.graph.every_layer() if isinstance(layer.ffn, Moe) and layer.owns_weights]
    if not layers:
        return does_not_apply("no mixtures of experts")
    rounding: dict[str, float] = {}
    for layer in layers:
        router = deepcopy(subject.model.get_submodule(f"{layer.path}.ffn.router")).eval()
        mixture = _Mixture(layer, router, subject)
        wrong = mixture.wrong()
        if wrong:
            return failed(f"{layer.path}: {wrong}")
        rounding[layer.path] = mixture.rounding()
    where, most = worst_in(rounding)
    values = _loads(subject)
    highest = max(values["series"]["load_max_over_mean"], default=1.0)
    detail = f"{len(layers)} routers; the busiest expert has {highest:.2f} times its share at first"
    if most <= PRECISE:
        return within(most, PRECISE, detail, values=values)
    what = f"{where} rounds its weights: in bf16 they are wrong by {most:.2g}"
    if type(subject.model.get_submodule(f"{where}.ffn.router")).__module__.startswith(_OURS):
        return failed(what, measured=most, bound=PRECISE, values=values)
    return passed(detail, warning=what, values=values)


class _Mixture:
    """One router, and tokens to ask it about."""

    def __init__(self, layer: Layer, router: Any, subject: Subject) -> None:
        assert isinstance(layer.ffn, Moe)
        self.moe, self.router = layer.ffn, router
        generator = torch.Generator().manual_seed(subject.seed + 5)
        width, device = layer.scope.width, subject.model.device
        self.tokens_BT = torch.randint(subject.probed.vocab_size, (1, _TOKENS), generator=generator).to(device)
        drawn = torch.randn(1, _TOKENS, width, generator=generator, dtype=torch.float64)
        # Numbers that bf16 holds exactly, so that precision is that of the router alone.
        self.x_BTD = drawn.to(torch.bfloat16).double().to(device)

    def ask(self, router: Any, x_BTD: Tensor, *, replay: Tensor | None = None) -> Any:
        """What a router answers, with given choices where there are any."""
        signals = None if replay is None else Signals(replay=iter([replay]))
        positions = torch.arange(_TOKENS, device=x_BTD.device)
        return router(x_BTD, Place(positions=positions, tokens=self.tokens_BT, signals=signals))

    @torch.no_grad()
    def wrong(self) -> str:
        """What is wrong with the choices and weights, or the empty text."""
        answer = self.ask(self.router, self.x_BTD)
        chosen_NK, weights_NK, spec = answer.chosen_NK, answer.weights_NK, self.moe.router
        if not bool(weights_NK.isfinite().all()) or bool((weights_NK < 0).any()):
            return "weights are negative or not finite"
        if spec.chooses == "experts":
            ordered = chosen_NK.sort(dim=-1).values
            if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
                return "a token goes to one expert twice"
            if int(ordered.min()) < 0 or int(ordered.max()) >= self.moe.experts:
                return "a token goes to an expert that is not there"
            total = spec.sum_of_weights(self.moe.top_k)
            if total is not None and not gap(weights_NK.sum(-1), torch.full_like(weights_NK[:, 0], total)) <= EXACT:
                return f"weights add up to {weights_NK.sum(-1).mean():.4g} and should to {total:g}"
        return self._of_bias(chosen_NK, weights_NK)

    def _of_bias(self, chosen_NK: Tensor, weights_NK: Tensor) -> str:
        """The same of a balancing bias: it decides who is chosen, not what that weighs, and evens the load."""
        bias = getattr(self.router, "bias", None)
        if "bias" not in self.moe.router.buffers_for(self.moe.experts) or bias is None:
            return ""
        favoured = self.moe.experts - 1
        before = bias.clone()
        bias[favoured] += _STRONG
        answer = self.ask(self.router, self.x_BTD)
        weighed = self.ask(self.router, self.x_BTD, replay=chosen_NK).weights_NK
        bias.copy_(before)
        if not bool((answer.chosen_NK == favoured).any(dim=-1).all()):
            return f"a large bias on expert {favoured} does not make every token choose it"
        if not gap(weighed, weights_NK) <= EXACT:
            return "the bias that balances the load changes what experts weigh"
        return self._of_update()

    def _of_update(self) -> str:
        """After an update in which few experts got everything, their biases are lower and all others higher."""
        step = getattr(self.moe.router, "bias_step", 0.0)
        crowd = self.moe.top_k
        if not step or crowd == self.moe.experts:
            return ""
        router = deepcopy(self.router).train()
        after_step(router)
        before = router.bias.clone()
        with torch.enable_grad():
            self.ask(router, self.x_BTD, replay=torch.arange(crowd).expand(_TOKENS, -1).to(self.x_BTD.device))
        after_step(router)
        moved = router.bias - before
        if not bool((moved[:crowd] < 0).all()) or not bool((moved[crowd:] > 0).all()):
            return "an update that sent everything to few experts does not lower their bias and raise the others'"
        return ""

    @torch.no_grad()
    def rounding(self) -> float:
        """How far the weights of the router in bf16 lie from those in fp64, on the same weights, tokens and choices."""
        rough = deepcopy(self.router).to(torch.bfloat16)
        exact = deepcopy(rough).double()
        chosen = self.ask(exact, self.x_BTD)
        picked = chosen.chosen_NK if chosen.kept_NK is None else chosen.kept_NK
        found = self.ask(rough, self.x_BTD.to(torch.bfloat16), replay=picked).weights_NK
        return gap(found.double(), self.ask(exact, self.x_BTD, replay=picked).weights_NK.double())


@torch.no_grad()
def _loads(subject: Subject) -> dict[str, Any]:
    """How evenly the fresh model's tokens fall on the experts of each layer."""
    signals = Signals()
    subject.model(subject.tokens(2, subject.length, salt=50), signals=signals)
    names = [layer.path for layer in (*subject.graph.encoder, *subject.graph.layers) if isinstance(layer.ffn, Moe)]
    series = {
        short: [float(x) for x in signals.metrics.get(name, [])]
        for short, name in (("load_max_over_mean", "expert_load_max_over_mean"), ("load_cv", "expert_load_cv"))
    }
    series = {name: numbers for name, numbers in series.items() if len(numbers) == len(names)}
    return by_layer(names, {"load_max_over_mean": [1.0] * len(names)} | series)
