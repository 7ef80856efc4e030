"""Run as a script: training on a card that is not there. Tensors say that they are on `cuda` and compute on the CPU.

What it shows: that nothing mixes devices (an operation that CUDA would refuse is refused here), and where the host
waits for the device (each `.item()`, each copy of a few numbers). What it cannot show: kernels, speed, memory.

A few lines of C++ tell torch that there is a device of type CUDA, which autograd asks for; they must be there before
torch is, hence a process of its own. FlexAttention is replaced by its formula.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

GUARD = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
namespace {
const Device card(DeviceType::CUDA, 0);
const Stream stream(Stream::DEFAULT, card);
}
struct Guard final : public impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return card; }
  Device getDevice() const override { return card; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return stream; }
  Stream getNewStream(Device, int) const override { return stream; }
  Stream exchangeStream(Stream) const noexcept override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
};
static impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, new Guard());
namespace at {
struct CUDAHooks : public CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}
"""


def compiled(folder: Path, compiler: str) -> Path:
    """The library of the lines above."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    include = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    link = [f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"]
    command = [compiler, "-shared", "-fPIC", "-std=c++20", *include, str(source), "-o", str(library), *link]
    subprocess.run(command, check=True, capture_output=True)
    return library


def load(library: Path) -> None:
    """Before torch is imported for the first time."""
    assert "torch" not in sys.modules
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent / "lib"
    ctypes.CDLL(str(home / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    for each in (home / "libc10.so", home / "libtorch_cpu.so", library):
        ctypes.CDLL(str(each))


WAITS: Counter[str] = Counter()
"""Where the host waits for the device, by line, and how often."""


def here() -> str:
    """The line of ours that is at work."""
    frames = [frame for frame in traceback.extract_stack() if "/vitruvius/" in frame.filename]
    return f"{frames[-1].filename.split('/vitruvius/')[-1]}: {frames[-1].line}" if frames else "elsewhere"


def pretend() -> tuple[type, type]:
    """A tensor that says it is on a card, and the mode in which such tensors are made. Changes torch for good."""
    import torch
    from torch.utils import _pytree as trees
    from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

    aten = torch.ops.aten
    waiting = {
        *(aten._local_scalar_dense.default, aten.nonzero.default, aten.bincount.default, aten.equal.default),
        *(aten.unique_consecutive.default, aten.repeat_interleave.Tensor, aten.masked_select.default),
    }
    indexing = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}

    class Card(torch.Tensor):
        @staticmethod
        def __new__(cls, inside):
            return torch.Tensor._make_wrapper_subclass(
                cls,
                inside.size(),
                strides=inside.stride(),
                storage_offset=inside.storage_offset(),
                dtype=inside.dtype,
                device=torch.device("cuda:0"),
            )

        def __init__(self, inside):
            self.inside = inside

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return run(func, args, kwargs or {})

        __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def run(func, args, kwargs):
        flat = trees.tree_leaves((args, kwargs))
        tensors = [each for each in flat if isinstance(each, torch.Tensor)]
        cards = [each for each in tensors if isinstance(each, Card)]
        plain = [each for each in tensors if not isinstance(each, Card)]
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        crosses = func is aten.copy_.default or func in indexing
        if cards and not crosses and any(each.dim() for each in plain):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} of cuda:0 and cpu, {here()}")
        if cards and func in waiting:
            WAITS[here()] += 1
        if func in (aten.copy_.default, aten._to_copy.default):
            to = ("cuda" if isinstance(args[0], Card) else "cpu") if func is aten.copy_.default else asked
            source = args[1] if func is aten.copy_.default else args[0]
            if to is not None and to != ("cuda" if isinstance(source, Card) else "cpu") and not isinstance(to, int):
                WAITS[here()] += 1

        def inside(each):
            if isinstance(each, Card):
                return each.inside
            return torch.device("cpu") if isinstance(each, torch.device) else each

        own = trees.tree_map(inside, kwargs)
        if asked is not None:
            own["device"] = torch.device("cpu")
        if "pin_memory" in own:
            own["pin_memory"] = False
        found = func(*trees.tree_map(inside, args), **own)
        if func is aten.copy_.default:
            return args[0]
        if not (asked == "cuda" or (asked is None and cards)):
            return found
        made = trees.tree_map(lambda each: Card(each) if isinstance(each, torch.Tensor) else each, found)
        try:
            return return_and_correct_aliasing(func, args, kwargs, made)
        except (AttributeError, RuntimeError, NotImplementedError):
            return made

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return run(func, args, kwargs or {})

    _change(torch, Card)
    return Card, Mode


def _change(torch, card) -> None:
    """What torch does around operators, where a tensor that computes elsewhere does not come through."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.cuda._lazy_init = lambda: None
    for name, value in {"is_available": True, "is_initialized": True, "is_bf16_supported": True}.items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_rng_state_all = lambda: [torch.zeros(16, dtype=torch.uint8)]
    torch.cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    for name in ("set_rng_state_all", "set_rng_state", "synchronize", "manual_seed_all"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    tensor, tolist, setitem = torch.tensor, torch.Tensor.tolist, torch.Tensor.__setitem__

    def made(*values, device=None, **rest):
        found = tensor(*values, **rest)
        return found if device is None or torch.device(device).type == "cpu" else found.to(device)

    def listed(self):
        if not isinstance(self, card):
            return tolist(self)
        WAITS[here()] += 1
        return self.inside.tolist()

    def put(self, index, value):
        if isinstance(self, card) and not isinstance(value, torch.Tensor):
            self.inside[index.inside if isinstance(index, card) else index] = value
        else:
            setitem(self, index, value)

    torch.tensor, torch.Tensor.tolist, torch.Tensor.__setitem__ = made, listed, put


def formula(q, k, v, *, score_mod, block_mask, scale, enable_gqa, return_aux=None):
    """What FlexAttention computes, every score in the open."""
    import torch

    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q.float() @ k.float().mT) * scale
    at = [torch.arange(n, device=q.device) for n in scores.shape]
    index = [each.view([-1 if axis == own else 1 for axis in range(4)]) for own, each in enumerate(at)]
    scores = scores if score_mod is None else score_mod(scores, *index)
    scores = scores.masked_fill(~block_mask.mask_mod(*index), -torch.inf)
    assert return_aux is None
    return (scores.softmax(-1) @ v.float()).to(q.dtype)


def main(library: str, home: str, settings: str) -> None:
    """Train, on the pretended card and on the CPU, and print what came of both and where the host waited."""
    load(Path(library))
    _, mode = pretend()
    from conftest import MIXTURE
    from vitruvius.nn.backends import flex
    from vitruvius.spec import preset
    from vitruvius.training import TrainConfig, train

    flex.kernel = lambda: formula
    architecture = preset("tiny-llama-moe", overrides=MIXTURE)
    given = {"steps": 4, "batch": 4, "checkpoint_every": 2, "eval_every": 2, **json.loads(settings)}
    results = {}
    for device in ("cpu", "cuda"):
        config = TrainConfig(device=device, **given)
        with mode():
            result = train(architecture, data=Path(home) / "data", out=Path(home) / device, config=config)
        results[device] = {"status": result.status, "loss": result.loss, "val_loss": result.val_loss}
        if device == "cpu":
            assert not WAITS, WAITS
    print(json.dumps({**results, "waits": dict(WAITS)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
