"""Hooks one after another over a sample, and the look at what each gives back."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.errors import RunError
from vitruvius.training.preprocessing.base import CHANGEABLE, IGNORED, Hook, HookSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from vitruvius.data.packing.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which sample it is."""

    sample_id: int
    epoch: int
    source: str


@final
class Pipeline:
    """The hooks of a run."""

    __slots__ = ("data_vocab_size", "eos_id", "hooks", "seed", "vocab_size")

    def __init__(self, hooks: Sequence[Hook], *, seed: int, vocab_size: int, data_vocab_size: int, eos_id: int) -> None:
        self.hooks = tuple(hooks)
        self.seed = seed
        self.vocab_size = vocab_size
        """The architecture's: no token may reach it."""
        self.data_vocab_size = data_vocab_size
        self.eos_id = eos_id

    def apply(self, sample: Sample, origin: Origin) -> Sample:
        """The sample after all hooks.

        Raises:
            RunError: a hook has raised, or has given what is no sample; names the hook and the sample.
        """
        for hook in self.hooks:
            sample = self.apply_one(hook, sample, origin)
        return sample

    def apply_one(self, hook: Hook, sample: Sample, origin: Origin) -> Sample:
        """The sample after one hook. Raises as `apply`."""
        seen = HookSample(
            inputs=_read_only(sample.inputs),
            targets=_read_only(sample.targets),
            documents=_read_only(sample.documents),
            crosses=_read_only(sample.crosses),
            sample_id=origin.sample_id,
            epoch=origin.epoch,
            source=origin.source,
            eos_id=self.eos_id,
            vocab_size=self.vocab_size,
            data_vocab_size=self.data_vocab_size,
        )
        try:
            given: object = hook.function(seen, self.draw(hook, origin), **hook.options)
        except Exception as error:  # noqa: BLE001 (whatever the hook raises)
            raise _raised(hook, origin, error) from None
        if not isinstance(given, Mapping):
            what = f"it gave {type(given).__name__} where a mapping is due"
            raise _refused(hook, origin, what, 'return {"inputs": ...}, {"targets": ...} or both')
        arrays = {
            str(name): self._checked(hook, origin, name, value, sample)
            for name, value in cast("Mapping[object, object]", given).items()
        }
        return replace(sample, **arrays)

    def draw(self, hook: Hook, origin: Origin) -> np.random.Generator:
        """The generator of a hook for a sample: a function of seed, epoch, sample and the hook's name."""
        import numpy as np

        words = np.frombuffer(hashlib.sha256(hook.name.encode()).digest(), dtype="<u4").tolist()
        entropy = [self.seed, origin.epoch, origin.sample_id, *words, hook.occurrence]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))

    def _checked(self, hook: Hook, origin: Origin, name: object, value: object, sample: Sample) -> np.ndarray:
        import numpy as np

        if name not in CHANGEABLE:
            fix = "a hook changes inputs and targets; documents and crosses belong to the data"
            raise _refused(hook, origin, f"it gave {name!r}", fix)
        if not isinstance(value, np.ndarray):
            raise _refused(hook, origin, f"{name} are {type(value).__name__}", "give a numpy array")
        array = cast("np.ndarray[Any, Any]", value)
        if array.shape != sample.inputs.shape:
            fix = "a sample keeps its length; a target of -100 is not asked for"
            raise _refused(
                hook, origin, f"{name} have the shape {array.shape}, and the sample has {sample.inputs.shape}", fix
            )
        if array.dtype.kind not in "iu":
            raise _refused(hook, origin, f"{name} are {array.dtype}", "give whole numbers, best int64")
        least = IGNORED if name == "targets" else 0
        wrong = (array < least) | (array >= self.vocab_size)
        if name == "targets":
            wrong |= (array < 0) & (array != IGNORED)
        if wrong.any():
            place = int(wrong.argmax())
            what = f"{name}[{place}] is {int(array[place])}, and tokens are below the vocabulary of {self.vocab_size:,}"
            raise _refused(hook, origin, what, "targets may be -100 too; --set vocab_size=N makes room for further ids")
        # A copy: what a hook gave may be an array that it keeps.
        return array.astype(np.int64)


def _read_only(array: np.ndarray) -> np.ndarray:
    owner = array.copy()
    owner.flags.writeable = False
    # A view cannot be made writable where the memory's owner is not.
    return owner.view()


def _place(hook: Hook, origin: Origin) -> str:
    return f"hook {hook.name}, sample {origin.sample_id:,} of source {origin.source}, epoch {origin.epoch}"


def _refused(hook: Hook, origin: Origin, what: str, fix: str) -> RunError:
    return RunError(what, where=_place(hook, origin), fix=fix)


def _raised(hook: Hook, origin: Origin, error: Exception) -> RunError:
    frames = traceback.extract_tb(error.__traceback__)[1:]
    line = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = str(error)[:500]
    if isinstance(error, ValueError) and "read-only" in text:
        what = f"it writes into its inputs, which are read-only: {text}{line}"
        return _refused(hook, origin, what, "work on a copy: inputs = sample.inputs.copy()")
    what = f"it raised {type(error).__name__}: {text}{line}"
    return _refused(hook, origin, what, "mend the hook or its options")
