"""One contestant of `train_throughput.py`: JSON commands on stdin, a JSON line for each on stdout.

    {"do": "start", "case": "moe", ...}      ->  {"parameters": ..., "versions": {...}}
    {"do": "warm", "seeds": [1, 2]}          ->  {"seconds": ...}
    {"do": "turn", "seeds": [3, 4, 5]}       ->  {"milliseconds": [...], "losses": [...], "peak_bytes": ...}

The first step of a turn is not counted: between turns the allocator's free memory is given back, so that the others
have room. A contestant that fails answers {"error": ...} and ends.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from card import forget_peak, milliseconds, peak_bytes, synchronize
from cases import CASES, Case, small

from vitruvius.nn.ops.compiling import compiled
from vitruvius.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture

LEARNING_RATE, WEIGHT_DECAY, CLIP, BETAS = 3e-4, 0.1, 1.0, (0.9, 0.95)


def tokens(case: Case, vocabulary: int, seed: int) -> torch.Tensor:
    """Ids [B, T + 1], skewed like words (Zipf), so that every contestant's loss falls at once from ln V."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1.0 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    drawn = torch.multinomial(weights, case.batch * (case.context + 1), replacement=True, generator=generator)
    return drawn.view(case.batch, case.context + 1)


class Ours:
    """The product: `Updater`, which is what `vitruvius train` does in an update, with its masters and checks."""

    packages = ("vitruvius",)

    def __init__(self, case: Case, device: str, mode: str) -> None:
        from vitruvius.training.config import TrainConfig, resolved
        from vitruvius.training.objectives import make_objective
        from vitruvius.training.optim import make_optimizer
        from vitruvius.training.stopping import StopRequest
        from vitruvius.training.updating import Updater

        architecture = case.architecture
        config = resolved(
            TrainConfig(
                batch=case.batch,
                checkpointing=case.checkpointing,
                optimizer=case.optimizer,
                documents="joined",
                device=device,  # pyright: ignore[reportArgumentType]
                lr=LEARNING_RATE,
                betas=BETAS,
                weight_decay=WEIGHT_DECAY,
            ),
            architecture,
        )
        self.model = drawn_on(architecture, torch.bfloat16, device)
        self.model.checkpointing = case.checkpointing
        if mode == "compiled":
            self.model.loss = compiled(self.model.loss)  # pyright: ignore[reportAttributeAccessIssue]
        self.stop = StopRequest()
        self.updater = Updater(
            config=config,
            model=self.model,
            optimizer=make_optimizer(self.model, config),
            objective=make_objective(config),
            device=torch.device(device),
        )

    def step(self, ids: torch.Tensor) -> float:
        """One update."""
        gathered = self.updater.gradients(batch_of(ids), self.stop)
        assert gathered is not None
        self.updater.apply(gathered, lr=LEARNING_RATE, clip=CLIP)
        return gathered.loss


def batch_of(ids: torch.Tensor) -> Any:
    """As a loader gives it."""
    import numpy as np

    from vitruvius.data import Batch

    rows, length = ids.shape[0], ids.shape[1] - 1
    return Batch(
        inputs=ids[:, :-1].numpy(),
        targets=ids[:, 1:].numpy(),
        documents=np.zeros((rows, length), dtype=np.int64),
        crosses=np.zeros((rows, length), dtype=bool),
        sample_ids=np.arange(rows),
        epochs=np.zeros(rows, dtype=np.int64),
    )


def drawn_on(architecture: Architecture, dtype: torch.dtype, device: str) -> Any:
    """The model with weights drawn on the device: fast, and not the weights that `build` draws on the CPU.

    Normal with a deviation of 0.02, gains 1, biases 0; what a spec says of a first value is kept.
    """
    import vitruvius as vt

    model = vt.build(architecture, dtype=dtype, device="meta").to_empty(device=device).train()
    generator = torch.Generator(device=device).manual_seed(0)
    tensors = model.graph.tensors()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start, role = tensors[name].start, tensors[name].role
            if isinstance(start, float) or role in {"gain", "bias"}:
                parameter.fill_(start if isinstance(start, float) else float(role == "gain"))
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    return model


class Peer:
    """fp32 weights under bf16 autocast and torch's fused AdamW, which is what the peers' own trainers do."""

    packages: tuple[str, ...] = ()

    def __init__(self, case: Case, device: str, mode: str) -> None:
        self.device = device
        torch.manual_seed(0)
        with torch.device(device):
            self.model: Any = self.build(case).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.call = torch.compile(self.model) if mode == "compiled" else self.model

    def build(self, case: Case) -> Any:
        """The model."""
        raise NotImplementedError

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        raise NotImplementedError

    def step(self, ids: torch.Tensor) -> float:
        """One update."""
        ids = ids.to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


class HuggingFace(Peer):
    packages = ("transformers",)

    def build(self, case: Case) -> Any:
        """Mixtral where every layer is a mixture, else Llama."""
        from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

        architecture = case.peer_architecture
        layers = resolve(architecture).layers
        mixer, ffn = layers[0].mixer, layers[0].ffn
        shared: dict[str, Any] = {
            "vocab_size": architecture.vocab_size,
            "hidden_size": architecture.width,
            "num_hidden_layers": len(layers),
            "num_attention_heads": mixer.heads,
            "num_key_value_heads": mixer.groups,
            "head_dim": mixer.width_of_head(layers[0].scope),
            "max_position_embeddings": case.context,
            "tie_word_embeddings": architecture.head.tied,
            "attn_implementation": "sdpa",
        }
        if ffn.kind == "moe":
            config = MixtralConfig(
                **shared,
                intermediate_size=ffn.expert.hidden,
                num_local_experts=ffn.experts,
                num_experts_per_tok=ffn.top_k,
                sliding_window=None,
            )
            config._experts_implementation = "grouped_mm"  # noqa: SLF001 (from_pretrained's argument sets this)
            model: Any = MixtralForCausalLM(config)
        else:
            model = LlamaForCausalLM(LlamaConfig(**shared, intermediate_size=ffn.hidden))
        if case.checkpointing == "layers":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`shift_labels`: the targets are shifted already, so that every position has one, as for the others."""
        return self.call(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss


class LitGPT(Peer):
    packages = ("litgpt",)

    def build(self, case: Case) -> Any:
        """Their Llama, with their loop over experts where the layers are mixtures."""
        from litgpt.config import Config
        from litgpt.model import GPT

        if case.checkpointing != "none":
            raise ValueError("litgpt checkpoints through its Fabric strategies only")
        architecture = case.peer_architecture
        layers = resolve(architecture).layers
        mixer, ffn = layers[0].mixer, layers[0].ffn
        experts: dict[str, Any] = {"mlp_class_name": "LLaMAMLP", "intermediate_size": getattr(ffn, "hidden", None)}
        if ffn.kind == "moe":
            experts = {
                "mlp_class_name": "LLaMAMoE",
                "intermediate_size": ffn.expert.hidden,
                "moe_intermediate_size": ffn.expert.hidden,
                "n_expert": ffn.experts,
                "n_expert_per_token": ffn.top_k,
            }
        model = GPT(
            Config(
                block_size=case.context,
                vocab_size=architecture.vocab_size,
                padded_vocab_size=architecture.vocab_size,
                n_layer=len(layers),
                n_embd=architecture.width,
                n_head=mixer.heads,
                head_size=mixer.width_of_head(layers[0].scope),
                n_query_groups=mixer.groups,
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                **experts,
            )
        )
        if architecture.head.tied:
            model.lm_head.weight = model.transformer.wte.weight
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.02)
        return model

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """In chunks, as their trainer does."""
        from litgpt.utils import chunked_cross_entropy

        return chunked_cross_entropy(self.call(inputs), targets)


CONTESTANTS: dict[str, Any] = {"vitruvius": Ours, "hf": HuggingFace, "litgpt": LitGPT}


class Worker:
    """A contestant and what it has been told."""

    def __init__(self) -> None:
        self.case: Case
        self.device: str
        self.contestant: Any

    def start(self, command: dict[str, Any]) -> dict[str, Any]:
        """Build it."""
        self.device = command["device"]
        case = CASES[command["case"]]
        if command["small"]:
            case = small(case)
            torch.set_num_threads(1)
        from dataclasses import replace

        self.case = replace(case, checkpointing=command["checkpointing"], optimizer=command["optimizer"])
        if command["chunk_logits"] is not None:
            import vitruvius.nn.ops.cross_entropy as head

            head.CHUNK_LOGITS = command["chunk_logits"]
        name = command["contestant"]
        self.contestant = CONTESTANTS[name](self.case, self.device, command["mode"])
        self.vocabulary = self.case.architecture.vocab_size
        model = self.contestant.model
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "versions": {p: importlib.metadata.version(p) for p in ("torch", *self.contestant.packages)},
        }

    def warm(self, command: dict[str, Any]) -> dict[str, Any]:
        """Steps that do not count; compiling happens here."""
        began = time.perf_counter()
        for seed in command["seeds"]:
            self.contestant.step(tokens(self.case, self.vocabulary, seed))
        synchronize(self.device)
        self._give_back()
        return {"seconds": time.perf_counter() - began}

    def turn(self, command: dict[str, Any]) -> dict[str, Any]:
        """Steps of which all but the first count."""
        times: list[float] = []
        losses: list[float] = []
        checksum = 0
        forget_peak(self.device)
        for seed in command["seeds"]:
            ids = tokens(self.case, self.vocabulary, seed)
            checksum += int(ids.sum())
            times.append(milliseconds(lambda ids=ids: losses.append(self.contestant.step(ids)), self.device))
        peak = peak_bytes(self.device)
        self._give_back()
        return {"milliseconds": times[1:], "losses": losses, "peak_bytes": peak, "checksum": checksum}

    def _give_back(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def answers() -> Iterator[Any]:
    """The pipe of answers; whatever a library prints goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with pipe:
        yield pipe


def main() -> None:
    """Answer until the pipe closes."""
    worker = Worker()
    with answers() as pipe:
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(worker, command["do"])(command)
            except Exception as error:
                pipe.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}) + "\n")
                raise
            pipe.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
