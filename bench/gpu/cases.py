"""What `train_throughput.py` trains: the specs, stated exactly, and how many tokens a step has. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.speed import train_flops
from vitruvius.sizing.training import training_memory
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, resolve

if TYPE_CHECKING:
    from vitruvius.sizing.training import TrainingMemory
    from vitruvius.spec import Architecture, Graph

Peer = Literal["hf", "litgpt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to train, by us and by those peers that have something like it."""

    name: str
    what: str
    """What it is, and what stands beside it."""
    preset: str
    sets: tuple[str, ...] = ()
    """As `--set` takes them, one after another."""
    batch: int
    context: int
    checkpointing: Literal["none", "layers"] = "none"
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    peers: tuple[Peer, ...] = ()
    peer_sets: tuple[str, ...] = ()
    """What the peers' architecture differs in, where they have no such layers."""
    turns: Literal["together", "apart"] = "together"
    """`apart`: a process at a time has the card, since two would not fit."""

    @property
    def architecture(self) -> Architecture:
        """Ours."""
        return preset(self.preset, overrides=[*self.sets, f"context={self.context}"])

    @property
    def peer_architecture(self) -> Architecture:
        """Theirs."""
        return preset(self.preset, overrides=[*self.sets, *self.peer_sets, f"context={self.context}"])

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.context

    @property
    def workload(self) -> Workload:
        """The step, as sizing asks for it."""
        return Workload(
            mode="train",
            context=self.context,
            batch=self.batch,
            weights="bf16",
            optimizer=self.optimizer,
            checkpointing=self.checkpointing,
        )

    def memory(self) -> TrainingMemory:
        """What our step is predicted to take."""
        return training_memory(resolve(self.architecture), self.workload)

    @property
    def command(self) -> str:
        """How a reader gets the same spec."""
        sets = " ".join(f"--set '{one}'" for one in (*self.sets, f"context={self.context}"))
        return f"vitruvius show {self.preset} {sets}"


_ONE_B_MOE = (
    "vocab_size=32000",
    "width=1536",
    "blocks.dense.mixer.heads=12",
    "blocks.dense.mixer.kv_heads=3",
    "blocks.dense.ffn.hidden=4096",
    "blocks.moe.ffn.expert.hidden=4096",
)
_ONE_B_LONG = (
    "width=2048",
    "blocks.local.mixer.heads=16",
    "blocks.local.mixer.kv_heads=4",
    "blocks.local.ffn.hidden=5504",
    "layers=local*12 dilated*9 full*3",
)
_FULL_ATTENTION = ("blocks.local.mixer.sees=causal", "blocks.dilated.mixer.sees=causal")

CASES = {
    case.name: case
    for case in (
        Case(
            name="moe",
            what="llama-moe at 1B class with every layer a mixture, which is Mixtral: both peers have it exactly",
            preset="llama-moe",
            sets=(*_ONE_B_MOE, "layers=moe*7"),
            batch=8,
            context=4096,
            peers=("hf", "litgpt"),
        ),
        Case(
            name="llama-moe",
            what="llama-moe at 1B class as it is, dense and mixture in turn; neither peer has that without other parts",
            preset="llama-moe",
            sets=(*_ONE_B_MOE, "layers=(dense moe)*6"),
            batch=8,
            context=4096,
        ),
        Case(
            name="longcontext",
            what="the LongContext twin at 1B with FlexAttention; peers are Llamas of the same size with full attention",
            preset="longcontext",
            sets=_ONE_B_LONG,
            batch=1,
            context=16384,
            peers=("hf", "litgpt"),
            peer_sets=_FULL_ATTENTION,
        ),
        Case(
            name="longcontext-32k",
            what="the same at 32,768 tokens, with checkpointing; peers as above",
            preset="longcontext",
            sets=_ONE_B_LONG,
            batch=1,
            context=32768,
            checkpointing="layers",
            peers=("hf",),
            peer_sets=_FULL_ATTENTION,
        ),
        Case(
            name="longcontext-whole",
            what="all 5.8 B parameters of LongContext at 32,768 tokens; beside it a Llama of that size, full attention",
            preset="longcontext",
            batch=1,
            context=32768,
            checkpointing="layers",
            peers=("hf",),
            peer_sets=_FULL_ATTENTION,
            turns="apart",
        ),
        Case(
            name="longcontext-100k",
            what="all of LongContext at its own 102,400 tokens, if it fits",
            preset="longcontext",
            batch=1,
            context=102400,
            checkpointing="layers",
            turns="apart",
        ),
    )
}


def small(case: Case) -> Case:
    """The same shape of a case, as small as a test wants it."""
    sets = {
        "llama-moe": (
            "vocab_size=512",
            "width=64",
            "blocks.dense.mixer.heads=4",
            "blocks.dense.mixer.kv_heads=1",
            "blocks.dense.ffn.hidden=128",
            "blocks.moe.ffn.expert.hidden=128",
            *(("layers=moe*2",) if case.name == "moe" else ("layers=dense moe",)),
        ),
        "longcontext": (
            "vocab_size=512",
            "width=64",
            "blocks.local.mixer.heads=4",
            "blocks.local.mixer.kv_heads=1",
            "blocks.local.mixer.sees=causal & (sliding(16) | global(every=16))",
            "blocks.dilated.mixer.sees=causal & dilated(8, every=4)",
            "blocks.local.ffn.hidden=128",
            "layers=local dilated full",
        ),
    }
    return replace(case, sets=sets[case.preset], batch=2, context=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Useful operations of training, a token; what is computed again for lack of memory does not count."""

    exact: float
    """What the layers do, counted by `vitruvius.sizing`: windows as they are, the causal half once."""
    palm: float
    """6 N + 12 L H Q T, N the active parameters: what the field calls MFU (Chowdhery et al., 2022, appendix B)."""
    parameters: int
    active: int


def flops_of(graph: Graph, workload: Workload) -> Flops:
    """Of a spec whose sequences are as long as the workload says."""
    tokens = graph.scope.context if workload.context is None else workload.context
    tensors = graph.tensors().values()
    active = sum(tensor.active for tensor in tensors)
    attended = 0
    for layer in graph.layers:
        mixer = layer.mixer
        if mixer is not None and mixer.kind == "attention":
            attended += 12 * mixer.heads * mixer.width_of_head(layer.scope) * tokens
    return Flops(
        exact=sum(train_flops(graph, workload)) / tokens,
        palm=6.0 * active + attended,
        parameters=sum(tensor.count for tensor in tensors),
        active=active,
    )


def fitting(case: Case, room: int | None) -> tuple[Case | None, list[str]]:
    """The first way to train a case that is predicted to fit, and the arithmetic of each that was looked at.

    In this order: as it is, with checkpointing, then with 8-bit moments too. room: bytes that there are; None: any.
    """
    ways = [case, replace(case, checkpointing="layers"), replace(case, checkpointing="layers", optimizer="adamw-8bit")]
    said: list[str] = []
    for way in dict.fromkeys(ways):
        memory = way.memory()
        said.append(
            f"{case.name}, checkpointing {way.checkpointing}, {way.optimizer}: weights {memory.weights / 1e9:.2f} GB "
            f"+ masters {memory.masters / 1e9:.2f} + moments {memory.states / 1e9:.2f} + at the moment "
            f"{memory.highest.name!r} gradients {memory.highest.gradients / 1e9:.2f}, saved "
            f"{memory.highest.saved / 1e9:.2f} and transient {memory.highest.transient / 1e9:.2f} = "
            f"{memory.peak / 1e9:.2f} GB, and up to {memory.margin / 1e9:.2f} for fragmentation; "
            + ("there is no limit here" if room is None else f"there are {room / 1e9:.2f}")
        )
        if room is None or memory.peak + memory.margin <= room:
            return way, said
    return None, said
