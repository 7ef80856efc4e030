"""DeepSpeed's ZeRO around a model: how it is started, what it is told, and where it keeps what.

Nothing is compiled: masters are moved by torch's AdamW, and processes talk through torch.distributed. DeepSpeed would
otherwise build C++ operators at the first use (minutes, a compiler and ninja; a build that is killed leaves a lock in
torch's cache of extensions that lets later runs wait without a word).

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import sys
import warnings
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from vitruvius.errors import UsageError
from vitruvius.sizing.parallel.deepspeed import BUCKET, bucket_of
from vitruvius.training.master import AdamWRule
from vitruvius.training.settings.zero import INSTALL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.training.master import ParameterGroup

ENTRANCES = ("loss", "hidden", "encode")
"""Methods of a model that compute with its weights, as the engine is entered by one forward pass alone."""
STATES = AdamWRule.state_names
_WEIGHTS: dict[str, Any] = {
    # Let go as soon as a layer has computed, and none kept whole.
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    # Else it would replace torch's linear maps, in all of the process.
    "memory_efficient_linear": False,
}
"""What DeepSpeed is told about weights, where it divides them."""


def started(device: str) -> Any:
    """The package, talking through the group that this process has joined. device: `cpu` or `cuda`.

    Raises UsageError when it cannot be imported, or was imported before for another kind of device.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    # It calls torch by names that this torch has replaced, at every step.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    with _said_on_stderr():
        try:
            package: Any = importlib.import_module("deepspeed")
            operators: Any = importlib.import_module("deepspeed.ops")
            accelerator: Any = importlib.import_module("deepspeed.accelerator").get_accelerator()
        except Exception as error:
            what = f"deepspeed cannot be imported: {type(error).__name__}: {str(error)[:200]}"
            raise UsageError(what, where="train.engine.kind", fix=INSTALL) from error
        for handler in logging.getLogger("DeepSpeed").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)
        name = accelerator.device_name().partition(":")[0]
        if name != device:
            raise UsageError(
                f"deepspeed computes on {name}, and the device is {device}",
                where="train.device",
                fix=f"unset DS_ACCELERATOR, or set it to {device}",
            )
        # What it may compile: nothing. It would else look for compilers, and build an operator for shared memory.
        operators.__compatible_ops__ = {}
        package.init_distributed(
            dist_backend="nccl" if device == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            dist_init_required=False,
        )
    return package


def forget() -> None:
    """Let DeepSpeed let go of a run that has ended: its groups, which are no more, and its model."""
    modules: dict[str, Any] = dict(sys.modules)
    if (comm := modules.get("deepspeed.comm.comm")) is not None:
        comm.cdb = None
    if (groups := modules.get("deepspeed.utils.groups")) is not None:
        groups._release_process_group_references(group=None)  # noqa: SLF001 (what its own way to end a group calls)
    if (offload := modules.get("deepspeed.runtime.zero.parameter_offload")) is not None:
        offload.FWD_MODULE_STACK.clear()


@final
class Zero:
    """A model whose gradients and optimizer state (stage 2), and weights (stage 3), processes share."""

    def __init__(self, package: Any, model: Model, groups: Sequence[ParameterGroup], *, stage: int, ranks: int) -> None:
        self.stage = stage
        self.ranks = ranks
        self.groups = groups
        self.names: dict[str, nn.Parameter] = {n: p for group in groups for n, p in group.parameters.items()}
        self._inside = self._backwards = False
        self._shapes = {name: tuple(parameter.shape) for name, parameter in self.names.items()}
        self._inner = torch.optim.AdamW([_torch_group(group) for group in groups], lr=0.0, fused=True)
        entrance = _Entrance(model)
        if stage == 3:
            _open_outputs(model)
        with _said_on_stderr():
            self._engine: Any = package.initialize(
                model=entrance,
                optimizer=self._inner,
                config=_config(model, stage=stage, ranks=ranks),
                dist_init_required=False,
            )[0]
        self._zero: Any = self._engine.optimizer
        if stage == 3:
            _close_outputs(model)
            self._keep_in_backward()
        for name in ENTRANCES:
            setattr(model, name, self._through(getattr(model, name)))
        for flat in self._flats():
            self._inner.state[flat] = {
                "step": torch.zeros((), device=flat.device),
                **{key: torch.zeros_like(flat, memory_format=torch.contiguous_format) for key in STATES},
            }

    def _flats(self) -> list[Tensor]:
        """The memory of this process's masters: one tensor a group, or more of them."""
        zero = self._zero
        return list(zero.single_partition_of_fp32_groups if self.stage == 2 else zero.fp32_partitioned_groups_flat)

    def _keep_in_backward(self) -> None:
        """Let go of the weights of a layer that is computed again when its gradients are there, and not before.

        DeepSpeed would when the layer is computed, as in a forward pass; torch wants them until it has the gradients.
        """
        offload = self._zero.parameter_offload
        release = offload.post_sub_module_forward_function

        def kept(module: nn.Module) -> None:
            if not self._backwards:
                release(module)

        offload.post_sub_module_forward_function = kept

    def run(self, name: str) -> tuple[int, int]:
        """Which numbers of a parameter this process keeps."""
        parameter: Any = self.names[name]
        if self.stage == 2:
            mapping = parameter._hp_mapping  # noqa: SLF001 (no interface says where a run lies)
            if mapping is None:
                return 0, 0
            start = mapping.lp_fragment_address.start
            return start, start + mapping.lp_fragment_address.numel
        whole, each = math.prod(self._shapes[name]), parameter.ds_tensor.numel()
        rank = torch.distributed.get_rank()
        return min(rank * each, whole), min((rank + 1) * each, whole)

    def master(self, name: str, key: str | None = None) -> Tensor:
        """This process's run of a parameter's master, or of a moment of it: the memory itself."""
        parameter: Any = self.names[name]
        if self.stage == 2:
            mapping = parameter._hp_mapping  # noqa: SLF001
            if mapping is None:
                return self._flats()[0].detach()[:0]
            flat = self._flats()[mapping.param_group_index]
            kept = flat.detach() if key is None else self._inner.state[flat][key]
            address = mapping.hp_fragment_address
            return kept.narrow(0, address.start, address.numel)
        start, stop = self.run(name)
        return self._zero.get_local_fp32_param(parameter, key).detach()[: stop - start]

    def weight(self, name: str) -> Tensor:
        """This process's run of a weight, in the model's format: the memory itself."""
        parameter: Any = self.names[name]
        start, stop = self.run(name)
        if self.stage == 2:
            return parameter.detach().view(-1)[start:stop]
        return parameter.ds_tensor.detach()[: stop - start]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole of a parameter."""
        return self._shapes[name]

    def entered(self, work: Callable[[], Any]) -> Any:
        """Compute inside a forward pass of DeepSpeed's; `work` within `work` is a part of the same one."""
        if self._inside:
            return work()
        self._inside = True
        try:
            # A layer that is computed again computes to its end, so that DeepSpeed sees it end.
            with set_checkpoint_early_stop(False):
                return self._engine(work)
        finally:
            self._inside = False

    def _through(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def entered(*inputs: Any, **options: Any) -> Any:
            return self.entered(lambda: method(*inputs, **options))

        return entered

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of a piece, summed over the processes and into the runs of this one.

        DeepSpeed takes the mean over processes, where losses here are means over the targets of all of them.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._backwards = True
        try:
            self._engine.backward(loss * self.ranks, scale_wrt_gas=False)
        finally:
            self._backwards = False

    def gradients(self) -> dict[str, Tensor]:
        """The gradients in this process's runs, by parameter, in fp32; none before the last piece is done."""
        found: dict[str, Tensor] = {}
        if self.stage == 2:
            names = {id(parameter): name for name, parameter in self.names.items()}
            for group, parts in self._zero.averaged_gradients.items():
                # Behind the runs stands what makes the parts of all processes equally long.
                runs = [part for part in parts or () if not getattr(part, "_zero_padding", False)]
                for parameter, run in zip(self._zero.params_in_partition[group], runs, strict=False):
                    found[names[id(parameter)]] = run.view(-1)
            return found
        if not self._zero.averaged_gradients:
            return found
        for name, parameter in self.names.items():
            start, stop = self.run(name)
            found[name] = self._zero.get_local_fp32_grad_for_param(parameter)[: stop - start]
        return found

    def squares(self) -> float:
        """The sum of the squares of the gradients in this process's runs, each number of a tensor in one process."""
        found = self.gradients().values()
        norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in found if each.numel()]
        return float(torch.stack(norms).square().sum()) if norms else 0.0

    def step(self, *, lr: float, clip: float | None) -> None:
        """AdamW over this process's runs, and the weights that follow, in all of them."""
        for group, told in zip(self.groups, self._inner.param_groups, strict=True):
            told["lr"] = lr * group.lr_factor
        self._zero.clip_grad = clip or 0.0
        self._engine.step()

    def discard(self) -> None:
        """Drop the gradients, whatever piece they are of."""
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        zero.clear_backward_seen_flag()
        if self.stage == 2:
            # As DeepSpeed's own step does where it leaves an update out.
            for key in zero.averaged_gradients:
                zero.averaged_gradients[key] = None
            zero.all_grad_tensors.clear()
        else:
            zero.averaged_gradients = {}
            zero.micro_step_id = 0
            # Else a weight that is not used next time has the gradient of this time.
            zero.grad_partitions_flat_buffer.zero_()

    def begin_at(self, step: int) -> None:
        """So many updates are done."""
        for flat in self._flats():
            self._inner.state[flat]["step"].fill_(step)


class _Entrance(nn.Module):
    """The only module that DeepSpeed sees called: what is computed inside is up to the caller."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


def _open_outputs(model: nn.Module) -> None:
    """Let DeepSpeed's hooks see the tensors in what a router gives, a dataclass: they look into tuples alone."""

    def opened(_module: nn.Module, _inputs: object, output: Any) -> Any:
        if not is_dataclass(output):
            return output
        found = {each.name: getattr(output, each.name) for each in fields(output)}
        tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
        return (_Opened(output, tuple(tensors)), *tensors.values())

    for module in model.modules():
        module.register_forward_hook(opened)


def _close_outputs(model: nn.Module) -> None:
    """After DeepSpeed's hooks: the dataclass again, with the tensors that they give."""

    def closed(_module: nn.Module, _inputs: object, output: Any) -> Any:
        if not (isinstance(output, tuple) and output and isinstance(output[0], _Opened)):
            return output
        opened, *tensors = output
        return replace(opened.value, **dict(zip(opened.names, tensors, strict=True)))

    for module in model.modules():
        module.register_forward_hook(closed)


class _Opened:
    """The dataclass that a tuple was made of, and which of its fields follow."""

    __slots__ = ("names", "value")

    def __init__(self, value: Any, names: tuple[str, ...]) -> None:
        self.value, self.names = value, names


def _torch_group(group: ParameterGroup) -> dict[str, Any]:
    """A group as torch's AdamW takes it; only AdamW comes so far."""
    rule = group.rule
    assert isinstance(rule, AdamWRule)
    return {
        "params": list(group.parameters.values()),
        "weight_decay": group.weight_decay,
        "betas": rule.betas,
        "eps": rule.eps,
    }


def _config(model: Model, *, stage: int, ranks: int) -> dict[str, Any]:
    """What DeepSpeed is told: sums in fp32, and nothing of what the run decides itself."""
    bucket = bucket_of(sum(parameter.numel() for parameter in model.parameters()), most=BUCKET)
    return {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": model.dtype == torch.bfloat16},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **(_WEIGHTS if stage == 3 else {}),
        },
    }


@contextlib.contextmanager
def _said_on_stderr() -> Generator[None]:
    """What is printed within goes where talk goes: stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
