"""Which tokens go to which expert, how even the load is, and what the choice says about token and place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.evals.inspecting.information import SHUFFLES, mutual_information, shared_information

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.evals.inspecting.listening import Choice

PLACES = 16
"""Parts of a row that positions are counted in."""
SHOWN = 8
"""Tokens named for each expert, most frequent and most specific."""
RARE = 3
"""A token that occurs less often than this is not called specific to anything."""
_SIGNIFICANT = 1.96
"""How many standard errors a token's log-odds must lie above zero to be called specific."""
_MOST_LAYERS = 12
"""With more layers of experts, only neighbours are compared."""
BETWEEN_LAYERS = 20
"""Permutations behind the chance level between two layers."""

Named = Callable[[int], str]


def routing_facts(
    passes: Sequence[Sequence[Choice]], tokens: Sequence[Tensor], name: Named, *, seed: int
) -> list[dict[str, Any]]:
    """What each layer of experts did over several passes; `tokens` are what the layers of each pass read, [B, T]."""
    facts: list[dict[str, Any]] = []
    for index, first in enumerate(passes[0] if passes else ()):
        chosen_NE = torch.cat([choices[index].chosen_NE for choices in passes])
        facts.append(_of_layer(first, chosen_NE, tokens, name, seed=seed))
    return facts


def _of_layer(first: Choice, chosen_NE: Tensor, tokens: Sequence[Tensor], name: Named, *, seed: int) -> dict[str, Any]:
    token_N = torch.cat([rows.flatten() for rows in tokens]).cpu()
    load_E = chosen_NE.sum(0).double()
    mean = float(load_E.mean())
    return {
        "path": first.layer.path,
        "index": first.layer.index,
        "block": first.layer.name,
        "experts": chosen_NE.shape[1],
        "tokens": chosen_NE.shape[0],
        "per_token": float(chosen_NE.double().sum(1).mean()),
        "unrouted_share": float((chosen_NE.sum(1) == 0).double().mean()),
        "load_share": [float(value) for value in load_E / load_E.sum().clamp_min(1)],
        "load_max_over_mean": float(load_E.max()) / mean if mean else None,
        "load_cv": float(load_E.std(correction=0)) / mean if mean else None,
        "dead": [expert for expert, value in enumerate(load_E) if not value],
        "information": _informations(chosen_NE, token_N, tokens, seed=seed),
        "tables": token_tables(chosen_NE, token_N, name),
    }


def _informations(chosen_NE: Tensor, token_N: Tensor, tokens: Sequence[Tensor], *, seed: int) -> dict[str, Any]:
    """With the token itself, its place in the row, and the token before."""
    place_N = torch.cat(
        [(torch.arange(rows.shape[1]) * PLACES // rows.shape[1]).expand(rows.shape[0], -1).flatten() for rows in tokens]
    )
    before_N = torch.cat([torch.cat([rows[:, :1] * 0 - 1, rows[:, :-1]], dim=1).flatten() for rows in tokens]).cpu()
    inner_N = before_N >= 0
    found = {
        "token": mutual_information(chosen_NE, token_N, shuffles=SHUFFLES, seed=seed),
        "position": mutual_information(chosen_NE, place_N, shuffles=SHUFFLES, seed=seed),
        "previous_token": mutual_information(chosen_NE[inner_N], before_N[inner_N], shuffles=SHUFFLES, seed=seed),
    }
    return {what: None if value is None else value.to_dict() for what, value in found.items()}


def token_tables(chosen_NE: Tensor, token_N: Tensor, name: Named) -> list[dict[str, Any]]:
    """For each expert its most frequent tokens, and those that it gets more often than others do.

    The latter by the log-odds ratio with an informative Dirichlet prior, in standard errors (Monroe et al., Fightin'
    Words, 2008): a token that occurs twice is not specific to an expert because both went there.
    """
    ids_M, place_N = torch.unique(token_N, return_inverse=True)
    number_M = torch.bincount(place_N, minlength=len(ids_M)).double()
    count_EM = torch.zeros(chosen_NE.shape[1], len(ids_M), dtype=torch.float64)
    count_EM.index_add_(1, place_N, chosen_NE.T.double())
    z_EM = log_odds(count_EM)
    tables: list[dict[str, Any]] = []
    for expert in range(chosen_NE.shape[1]):
        count_M, total = count_EM[expert], float(count_EM[expert].sum())
        frequent = [m for m in _largest(count_M) if count_M[m] > 0]
        known_M = torch.where((number_M >= RARE) & (count_M > 0), z_EM[expert], -torch.inf)
        specific = [m for m in _largest(known_M) if known_M[m] > _SIGNIFICANT]

        def row(m: int, count_M: Tensor = count_M, expert: int = expert, total: float = total) -> dict[str, Any]:
            return {
                "id": int(ids_M[m]),
                "text": name(int(ids_M[m])),
                "count": int(count_M[m]),
                "share_of_expert": float(count_M[m]) / total,
                "share_of_token": float(count_M[m] / number_M[m]),
                "z": float(z_EM[expert, m]),
            }

        tables.append(
            {
                "expert": expert,
                "load": int(total),
                "frequent": [row(m) for m in frequent],
                "specific": [row(m) for m in specific],
            }
        )
    return tables


def log_odds(count_EM: Tensor) -> Tensor:
    """Of each token in each expert against all other experts together, in standard errors; 0 with one expert."""
    all_M = count_EM.sum(0)
    prior_M = all_M / all_M.sum().clamp_min(1) * len(all_M) + 1e-9
    mine, others = count_EM + prior_M, all_M - count_EM + prior_M
    rest, their_rest = mine.sum(1, keepdim=True) - mine, others.sum(1, keepdim=True) - others
    if len(all_M) < 2 or len(count_EM) < 2:
        return torch.zeros_like(count_EM)
    difference = (mine / rest).log() - (others / their_rest).log()
    return difference / (1 / mine + 1 / others).sqrt()


def _largest(values_M: Tensor) -> list[int]:
    """Places of the largest values, the earlier of equal ones first."""
    order = torch.argsort(values_M, descending=True, stable=True)
    return [int(place) for place in order[:SHOWN]]


def overlaps(passes: Sequence[Sequence[Choice]], *, seed: int) -> list[dict[str, Any]]:
    """What the choices of one layer of experts say about those of another for the same token, by pairs of layers."""
    layers = passes[0] if passes else ()
    chosen = [torch.cat([choices[index].chosen_NE for choices in passes]) for index in range(len(layers))]
    every = [(a, b) for a in range(len(layers)) for b in range(a + 1, len(layers))]
    pairs = every if len(layers) <= _MOST_LAYERS else list(pairwise(range(len(layers))))
    found: list[dict[str, Any]] = []
    for a, b in pairs:
        if len(chosen[a]) != len(chosen[b]):
            continue  # an encoder's text and a decoder's
        information = shared_information(chosen[a], chosen[b], shuffles=BETWEEN_LAYERS, seed=seed)
        if information is not None:
            found.append(
                {"first": layers[a].layer.path, "second": layers[b].layer.path, "information": information.to_dict()}
            )
    return found
