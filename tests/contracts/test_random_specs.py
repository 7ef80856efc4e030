"""Whatever valid spec somebody writes, the built model keeps the contracts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from specs import architectures

from vitruvius.checks import check
from vitruvius.spec import resolve, to_yaml
from vitruvius.spec.inits import NormalInit


def holds(architecture, *names: str) -> None:
    report = check(architecture, only=names)
    assert report.passed, f"{report}\n\n{to_yaml(architecture)}"


def plainly_drawn(architecture):
    """The design with plain first weights.

    Wide matrices without a norm in front of them make attention an argmax, which bf16 flips, and saturate soft caps,
    which then learn slowly: a property of such a design, of which `check` is right to speak.
    """
    return replace(architecture, init=NormalInit())


@pytest.mark.slow
@given(architectures())
def test_the_module_holds_exactly_the_tensors_that_the_spec_counts(architecture):
    holds(architecture, "parameters", "output-shape")


@pytest.mark.slow
@given(architectures())
def test_the_cache_takes_exactly_the_bytes_that_size_prints(architecture):
    holds(architecture, "cache-bytes")


@given(architectures())
def test_no_token_sees_a_later_one(architecture):
    holds(architecture, "future-leak")


@pytest.mark.slow
@given(architectures())
def test_attention_rows_sum_to_one_over_exactly_the_declared_pairs(architecture):
    holds(architecture, "attention-pattern")


@pytest.mark.slow
@given(architectures())
def test_outputs_depend_on_exactly_what_the_layers_promise_together(architecture):
    holds(architecture, "receptive-field", "residual", "tokens-ahead")


@given(architectures())
def test_fresh_heads_look_around(architecture):
    holds(plainly_drawn(architecture), "attention-distribution")


@given(architectures())
def test_routers_weigh_in_full_precision_and_balance_the_right_way(architecture):
    holds(architecture, "routing")


@pytest.mark.slow
@given(architectures())
def test_every_backend_computes_what_the_reference_computes_forward_and_backward(architecture):
    holds(architecture, "backends", "experts")


@given(architectures())
def test_cached_decode_equals_the_full_forward_pass(architecture):
    holds(architecture, "cached-decode")


@pytest.mark.slow
@given(architectures())
def test_logits_do_not_depend_on_neighbours_padding_or_packing(architecture):
    holds(architecture, "batch-invariance", "padding-invariance", "packed-documents")


@pytest.mark.slow
@given(architectures())
def test_dense_flops_are_what_torch_counts_and_useful_ones_what_the_pattern_allows(architecture):
    holds(architecture, "flops")


@pytest.mark.slow
@given(architectures())
def test_every_parameter_and_every_expert_has_a_gradient(architecture):
    holds(architecture, "gradients")


@pytest.mark.slow
@given(architectures())
def test_the_training_loss_is_the_cross_entropy_of_the_logits(architecture):
    holds(architecture, "loss")


@pytest.mark.slow
@given(architectures())
def test_the_first_loss_is_that_of_knowing_nothing(architecture):
    # Without a norm before the head, wide matrices really do make a fresh model confidently wrong, and a head tied to
    # a wide table makes it predict the token it has just read.
    assume(resolve(architecture).layers[-1].norm_place != "none")
    assume(architecture.head.tensors(resolve(architecture).scope) or architecture.init.table_std < 0.1)
    holds(architecture, "init-loss")


@pytest.mark.slow
@given(architectures())
def test_bf16_stays_within_its_bound_of_fp64(architecture):
    holds(plainly_drawn(architecture), "bf16")


@pytest.mark.slow
@given(architectures())
def test_the_gradient_of_the_objective_is_its_derivative(architecture):
    holds(architecture, "derivative")


@pytest.mark.slow
@given(architectures())
def test_first_weights_are_drawn_as_the_init_says(architecture):
    holds(plainly_drawn(architecture), "init-scale")


@pytest.mark.slow
@given(architectures())
def test_saturated_gates_and_long_sequences_decode_as_they_are_read(architecture):
    holds(plainly_drawn(architecture), "adversarial", "length-stress")


@pytest.mark.slow
@given(architectures())
def test_odd_inputs_leave_loss_and_gradients_finite(architecture):
    holds(architecture, "no-nan", "positions")


@pytest.mark.slow
@given(architectures())
def test_a_seed_names_one_model_and_a_file_holds_all_of_it(architecture):
    holds(architecture, "determinism", "round-trip")


@pytest.mark.slow
@given(architectures())
def test_one_small_batch_can_be_memorised(architecture):
    holds(plainly_drawn(architecture), "overfits")
