"""Which weights an optimizer treats alike: those that decay, and by how much learning rate, decay and eps are scaled.

No torch: what an engine lays out by group is counted before anything is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vitruvius.spec.widen import weights

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.weight import Weight
    from vitruvius.training.config import TrainConfig

DecayRule = Literal["matrices", "matrices-not-embeddings", "everything", "nothing"]

DECAYS = {
    "matrices": lambda dims, _is_embedding: dims > 1,
    "matrices-not-embeddings": lambda dims, is_embedding: dims > 1 and not is_embedding,
    "everything": lambda _dims, _is_embedding: True,
    "nothing": lambda _dims, _is_embedding: False,
}
"""Rule: does a parameter with this many dimensions, an embedding or not, decay?"""

_VECTORS = frozenset({"gain", "bias"})
"""Roles that scale or shift channels; some have two dimensions, as Mamba's A or a bias for each expert."""


def decays(weight: Weight, rule: DecayRule) -> bool:
    """Whether a weight decays; a gain or a bias is no matrix in any shape."""
    dims = 1 if weight.tensor.role in _VECTORS else len(weight.tensor.shape)
    return DECAYS[rule](dims, weight.tensor.role == "table")


def adamw_groups(graph: Graph, config: TrainConfig) -> list[list[str]]:
    """Names of the weights in each group that AdamW makes: those that decay first, then the others."""
    init, scope = graph.architecture.init, graph.scope
    found: dict[bool, dict[tuple[float, ...], list[str]]] = {True: {}, False: {}}
    for name, weight in weights(graph).items():
        eps, lr = init.eps_scale(weight, scope), init.learning_rate_scale(weight, scope)
        alike = (config.eps * eps, lr, config.weight_decay * init.weight_decay_scale(weight, scope))
        found[decays(weight, config.decay)].setdefault(alike, []).append(name)
    return [names for groups in found.values() for names in groups.values()]
