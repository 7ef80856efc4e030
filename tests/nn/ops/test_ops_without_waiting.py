"""What is computed in another way on a GPU, so that the host need not wait: the same numbers as on a CPU."""

from __future__ import annotations

import torch

from vitruvius.nn.ops import cross_entropy
from vitruvius.nn.ops.counting import added, occurrences


def test_adding_ones_counts_as_bincount_does():
    ids = torch.randint(0, 7, (1000,), generator=torch.Generator().manual_seed(0))
    ids = ids[ids != 3]
    assert torch.equal(added(ids, 8), torch.bincount(ids, minlength=8))
    assert torch.equal(occurrences(ids, 8), added(ids, 8))
    assert added(ids[:0], 8).tolist() == [0] * 8


def _logits(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of every kind: usual ones, targets that are nearly sure, and targets whose probability underflows."""
    generator = torch.Generator().manual_seed(1)
    z_CV = torch.randn(12, 50, generator=generator) * 3
    target_C1 = torch.randint(0, 50, (12, 1), generator=generator)
    for row, lift in ((0, 8.0), (1, 16.0), (2, 30.0), (3, -100.0), (4, -300.0)):
        z_CV[row, target_C1[row]] = lift
    return z_CV.to(dtype), target_C1


def _both(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    z_CV, target_C1 = _logits(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    p_CV = torch.softmax(z_CV, dim=-1)
    before = p_CV.clone()
    loss_C, residual_C = cross_entropy._without_waiting(z_CV, p_CV, target_C1, wide)
    assert torch.equal(p_CV, before), "the probabilities are put back"
    exact = z_CV.double().log_softmax(-1).gather(-1, target_C1).squeeze(-1)
    return loss_C.double(), residual_C.double(), -exact, -torch.expm1(exact)


def test_a_loss_without_waiting_is_that_of_fp64_in_fp32():
    loss_C, residual_C, exact_C, exact_residual_C = _both(torch.float32)
    torch.testing.assert_close(loss_C, exact_C, rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(residual_C, exact_residual_C, rtol=2e-6, atol=1e-9)


def test_a_loss_without_waiting_is_as_near_in_bf16_as_the_one_of_cpus():
    z_CV, target_C1 = _logits(torch.bfloat16)
    loss_C, residual_C, exact_C, exact_residual_C = _both(torch.bfloat16)
    here_C, here_residual_C = cross_entropy._loss_and_residual(z_CV, torch.softmax(z_CV, dim=-1), target_C1)
    for mine, cpu, exact in ((loss_C, here_C, exact_C), (residual_C, here_residual_C, exact_residual_C)):
        own, theirs = ((each.double() - exact).abs() / exact.abs().clamp_min(1e-6) for each in (mine, cpu))
        assert own.max() <= theirs.max() * 1.01 + 1e-4


def test_a_sure_and_a_hopeless_target_keep_their_digits():
    loss_C, residual_C, exact_C, exact_residual_C = _both(torch.bfloat16)
    for row in (1, 2):  # loss far below what bf16's 1 - p could say
        assert 0 < exact_C[row] < 1e-3
        torch.testing.assert_close(loss_C[row], exact_C[row], rtol=2e-2, atol=0)
        torch.testing.assert_close(residual_C[row], exact_residual_C[row], rtol=2e-2, atol=0)
    for row in (3, 4):
        assert exact_C[row] > 69
        torch.testing.assert_close(loss_C[row], exact_C[row], rtol=1e-4, atol=0)
