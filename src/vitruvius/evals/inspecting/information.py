"""Mutual information of choices with what may explain them, less what chance alone would give."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

SHUFFLES = 200
"""Permutations of a test: the smallest p-value is 1 / 201."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """I(choice; label) in bits."""

    plain: float
    """From the counts as they are, which is too much: chance alone gives `by_chance`."""
    by_chance: float
    """Mean over permutations of the labels."""
    bits: float
    """`plain` less `by_chance`: the estimate. Near zero it may be negative."""
    miller_madow: float | None
    """`plain` with the correction of Miller and Madow (1955); None where a token makes several choices, which are not
    independent draws."""
    of_choice: float
    """Entropy of the choices, in bits: the most that `bits` could be."""
    share: float | None
    """`bits` over `of_choice`, at least 0; None where all choices are the same."""
    p: float
    """Share of permutations, this one included, that give as much or more."""
    labels: int
    """Different labels."""
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def mutual_information(
    chosen_NE: Tensor, label_N: Tensor, *, shuffles: int = SHUFFLES, seed: int = 0
) -> Information | None:
    """Mutual information of what each token was sent to (bool, one or several a token) and a label of the token.

    Each pair of a token and one of its choices counts once. The bias is the mean over random permutations of the
    labels among the tokens, which keep how often each choice and each label occurs and how many choices a token
    makes; they treat tokens as exchangeable. None without tokens or choices.
    """
    label_N = torch.unique(label_N, return_inverse=True)[1]
    token_P, choice_P = chosen_NE.nonzero(as_tuple=True)
    if token_P.numel() == 0:
        return None
    sizes = (chosen_NE.shape[1], int(label_N.max()) + 1)
    single = bool((chosen_NE.sum(1) == 1).all())
    counted = _Counted(choice_P, sizes)
    of_labels = _entropy(torch.bincount(label_N[token_P], minlength=sizes[1]))
    found = counted.information(label_N[token_P], of_labels)
    generator = torch.Generator().manual_seed(seed)
    chance: list[float] = []
    for _ in range(shuffles):
        order_N = torch.randperm(len(label_N), generator=generator)
        label_P = label_N[order_N][token_P]
        # Tokens may make different numbers of choices, and then labels occur in other numbers of pairs.
        of_labels = of_labels if single else _entropy(torch.bincount(label_P, minlength=sizes[1]))
        chance.append(counted.information(label_P, of_labels))
    mean = sum(chance) / max(1, len(chance))
    # A permutation may give the same counts summed in another order: equal but for the last bits is equal.
    reached = sum(value >= found - 1e-12 for value in chance)
    of_choice = _entropy(torch.bincount(choice_P, minlength=sizes[0]))
    return Information(
        plain=found,
        by_chance=mean,
        bits=found - mean,
        miller_madow=found + _miller_madow(choice_P, label_N[token_P], sizes) if single else None,
        of_choice=of_choice,
        share=max(0.0, found - mean) / of_choice if of_choice > 0 else None,
        p=(1 + reached) / (1 + shuffles),
        labels=sizes[1],
        tokens=chosen_NE.shape[0],
    )


def shared_information(first_NE: Tensor, second_NF: Tensor, *, shuffles: int, seed: int = 0) -> Information | None:
    """Mutual information of the choices of two layers for the same tokens, each pair of choices of a token once.

    A token's own set of choices in the second layer moves as a whole when it is permuted.
    """
    pairs_EF = first_NE.double().T @ second_NF.double()
    if pairs_EF.sum() == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    chance = [
        _of_counts(first_NE.double().T @ second_NF[torch.randperm(len(second_NF), generator=generator)].double())
        for _ in range(shuffles)
    ]
    found, mean = _of_counts(pairs_EF), sum(chance) / max(1, len(chance))
    least = min(_entropy(pairs_EF.sum(1)), _entropy(pairs_EF.sum(0)))
    return Information(
        plain=found,
        by_chance=mean,
        bits=found - mean,
        miller_madow=None,
        of_choice=least,
        share=max(0.0, found - mean) / least if least > 0 else None,
        p=(1 + sum(value >= found - 1e-12 for value in chance)) / (1 + shuffles),
        labels=second_NF.shape[1],
        tokens=first_NE.shape[0],
    )


class _Counted:
    """Choices, of which the information with labels is asked for many times."""

    def __init__(self, choice_P: Tensor, sizes: tuple[int, int]) -> None:
        self.row_P = choice_P * sizes[1]
        self.cells = sizes[0] * sizes[1]
        self.of_choices = _entropy(torch.bincount(choice_P, minlength=sizes[0]))
        number = torch.arange(len(choice_P) + 1).double()
        self.logs = torch.special.xlogy(number, number)  # n log n of every count that can occur

    def information(self, label_P: Tensor, of_labels: float) -> float:
        """In bits, given the entropy of the labels."""
        joint = torch.bincount(self.row_P + label_P, minlength=self.cells)
        number = len(label_P)
        of_both = (log(number) - float(self.logs[joint].sum()) / number) / log(2)
        return max(0.0, self.of_choices + of_labels - of_both)


def _of_counts(joint: Tensor) -> float:
    return max(0.0, _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint))


def _entropy(counts: Tensor) -> float:
    """In bits."""
    share = counts.double().flatten() / counts.sum()
    return float(-torch.special.xlogy(share, share).sum()) / log(2)


def _miller_madow(choice_P: Tensor, label_P: Tensor, sizes: tuple[int, int]) -> float:
    """What the correction adds, in bits: half a nat over the number of draws for each cell of a marginal, less those
    of the joint counts.
    """
    cells = (torch.unique(x).numel() for x in (choice_P, label_P, choice_P * sizes[1] + label_P))
    choices, labels, joint = cells
    return (choices + labels - joint - 1) / (2 * len(choice_P) * log(2))
