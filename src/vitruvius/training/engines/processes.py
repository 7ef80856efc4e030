"""Several processes that train together: how they meet, talk, fail and stop. What they share is up to their engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist

from vitruvius.errors import RunError, UsageError, VitruviusError
from vitruvius.training.engines.base import Engine
from vitruvius.training.stopping import EXIT_CODES, StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vitruvius.training.launch import Launch
    from vitruvius.training.settings import EngineSettings

BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
"""Setting -> what torch calls it. Numbers on the host (losses, requests to stop) go through gloo in either."""

_SIGNS_OF_LOSS = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "ProcessGroup", "TCPStore")
"""What torch's messages say when a process is gone or silent; their type is often a bare RuntimeError."""

_LOST = "the other processes say why; when all have ended, go on with --resume"


class ProcessEngine(Engine):
    """One of several processes that torchrun has started."""

    def __init__(self, launch: Launch, settings: EngineSettings) -> None:
        super().__init__(launch)
        self.settings = settings
        self._asked_here: StopRequest | None = None

    @classmethod
    @contextlib.contextmanager
    def joined(cls, launch: Launch, settings: EngineSettings, device: str) -> Generator[Self]:
        """Meet the other processes, and leave together with them when the block ends without an error.

        Raises RunError when they do not come in time or are lost, UsageError when torch or the machine lacks the
        backend or the device.
        """
        engine = cls(launch, settings)
        backend = _backend(settings, device)
        if dist.is_initialized():
            raise UsageError(
                "this process has joined a group of torch.distributed already",
                where="train.engine.kind",
                fix="leave that group first, or use kind: local",
            )
        if device == "cuda":
            _take_device(launch)
        with engine.contact():
            dist.init_process_group(
                BACKENDS[backend],
                rank=launch.rank,
                world_size=launch.ranks,
                timeout=timedelta(seconds=settings.timeout),
            )
            try:
                engine.met(device)
                yield engine
                # A process that ends early makes torchrun end the others, who may still be writing.
                engine.barrier()
            finally:
                dist.destroy_process_group()

    def met(self, device: str) -> None:
        """All processes are there: make what takes all of them to make."""

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        return self.summed(values)

    def summed(self, values: Sequence[float]) -> list[float]:
        """As `total`, of every process, whatever the processes share."""
        sums = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, sent as JSON: nothing is unpickled."""
        mine = json.dumps(value).encode()
        lengths = [0.0] * self.ranks
        lengths[self.rank] = float(len(mine))
        sizes = [int(length) for length in self.summed(lengths)]
        padded = torch.frombuffer(bytearray(mine.ljust(max(sizes), b" ")), dtype=torch.uint8)
        texts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(texts, padded)
        return [json.loads(text.numpy().tobytes()[:size]) for text, size in zip(texts, sizes, strict=True)]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` gives in the main process; its error is raised there, and told to the others."""
        told: dict[str, Any] = {}
        error: BaseException | None = None
        if self.is_main:
            try:
                told = {"value": make()}
            except Exception as raised:  # noqa: BLE001  (it is raised again as soon as the others know)
                error = raised
                told = {"error": raised.what if isinstance(raised, VitruviusError) else f"{type(raised).__name__}"}
        heard = self.gather(told)[0]
        if error is not None:
            raise error
        if "error" in heard:
            raise RunError(
                f"the main process has ended with an error: {heard['error']}",
                where=self._place,
                fix="see the message of process 0",
            )
        return heard["value"]

    def anywhere(self, *, here: bool) -> bool:
        """Whether it is so in any process."""
        return self.summed([float(here)])[0] > 0

    def barrier(self) -> None:
        """Wait for all."""
        self.summed([0.0])

    def agreed(self, stop: StopRequest) -> StopRequest:
        """A request of its own; `stop` is only looked at in `agree_to_stop`."""
        self._asked_here = stop
        return StopRequest()

    def agree_to_stop(self, stop: StopRequest) -> bool:
        """Whether any process was asked to; of several signals the one that most processes have seen wins."""
        if not stop.asked:
            assert self._asked_here is not None
            mine = self._asked_here.signal
            votes = self.summed([float(mine == number) for number in EXIT_CODES])
            if any(votes):
                stop.ask(max(zip(votes, EXIT_CODES, strict=True), key=lambda vote: vote[0])[1])
        return stop.asked

    def draw(self, seed: int, number: int) -> None:
        """Seed torch by (seed, batch, share): the same numbers again after a resume with as many processes."""
        digest = hashlib.sha256(f"{seed}/{number}/{self.share_rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def ensure_alike(self, value: Callable[[], str], *, what: str, fix: str) -> None:
        """Raise RunError, in all processes, when they do not have the same."""
        found = self.gather(value())
        if len(set(found)) > 1:
            other = next(rank for rank, theirs in enumerate(found) if theirs != found[0])
            raise RunError(f"in process {other}, {what} differ from those of process 0", where=self._place, fix=fix)

    @contextlib.contextmanager
    def contact(self) -> Generator[None]:
        """Raise RunError in the place of what torch raises when another process is gone or silent."""
        try:
            yield
        except VitruviusError:
            raise
        except RuntimeError as error:
            # torch.distributed's own errors are RuntimeErrors too.
            text = str(error)
            if not (isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS_OF_LOSS)):
                raise
            what = f"another process is gone or does not answer: {(text.strip().splitlines() or [''])[0][:200]}"
            raise RunError(what, where=self._place, fix=_LOST) from error

    @property
    def _place(self) -> str:
        return f"process {self.rank} of {self.ranks}"


def _backend(settings: EngineSettings, device: str) -> str:
    backend = {"cuda": "nccl", "cpu": "gloo"}[device] if settings.backend == "auto" else settings.backend
    if (backend == "nccl") != (device == "cuda"):
        raise UsageError(
            f"{backend} does not connect devices of kind {device}",
            where="train.engine.backend",
            fix="leave it out: auto takes what fits",
        )
    has = dist.is_available() and (dist.is_nccl_available() if backend == "nccl" else dist.is_gloo_available())
    if not has:
        what = f"this torch was built without {backend}"
        raise UsageError(what, where="train.engine.backend", fix="install torch as its own packages build it")
    return backend


def _take_device(launch: Launch) -> None:
    """Each process of a machine has a device of its own."""
    count = torch.cuda.device_count()
    if launch.local_ranks > count:
        raise UsageError(
            f"{launch.local_ranks} processes on this machine, and it has {count} CUDA devices",
            where="train.device",
            fix=f"launch with --nproc-per-node {count}",
        )
    torch.cuda.set_device(launch.local_rank)
