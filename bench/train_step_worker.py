"""One contestant of the training bench: reads JSON commands on stdin, answers each with a JSON line on stdout.

    {"do": "start", "config": {...}}   ->  {"parameters": ..., "versions": {...}}
    {"do": "step", "seed": 7}          ->  {"seconds": ..., "cpu_seconds": ..., "loss": ..., "tokens_sum": ...}

Runs in the contestant's own environment, so it imports nothing of Vitruvius unless it is Vitruvius.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import torch

LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0
BETAS = (0.9, 0.95)


def tokens(config: dict, seed: int) -> torch.Tensor:
    """[B, T+1] token ids, skewed like words (Zipf), so that every contestant's loss falls at once from ln V."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1.0 / torch.arange(1, config["vocab"] + 1, dtype=torch.float64)
    count = config["batch"] * (config["context"] + 1)
    drawn = torch.multinomial(weights, count, replacement=True, generator=generator)
    return drawn.view(config["batch"], config["context"] + 1)


class Vitruvius:
    """The product's public path: a spec file, `build`, `Model.loss`, fp32 masters over bf16 weights."""

    packages = ("vitruvius",)

    def __init__(self, config: dict) -> None:
        import vitruvius as vt
        from vitruvius.nn.ops import keep_freed_memory
        from vitruvius.nn.ops.compiling import compiled
        from vitruvius.training.master import MasterAdamW, parameter_groups

        keep_freed_memory()
        self.model = vt.build(vt.read(Path(__file__).with_suffix("").with_name("train_step.yaml")))
        self.model.to(torch.bfloat16).train()
        groups = parameter_groups(self.model.named_parameters(), weight_decay=WEIGHT_DECAY)
        self.optimizer = MasterAdamW(groups, lr=LEARNING_RATE, betas=BETAS)
        self.loss = compiled(self.model.loss) if config["mode"] == "compiled" else self.model.loss

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = self.loss(inputs, targets)
        loss.backward()
        self.optimizer.step(clip=CLIP)
        self.optimizer.zero_grad()
        return loss


class Peer:
    """A model with fp32 weights under bf16 autocast and PyTorch's fused AdamW."""

    packages: tuple[str, ...] = ()

    def __init__(self, config: dict) -> None:
        self.model = self.build(config).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.call = torch.compile(self.model) if config["mode"] == "compiled" else self.model

    def build(self, config: dict) -> torch.nn.Module:
        raise NotImplementedError

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


class HuggingFace(Peer):
    packages = ("transformers",)

    def build(self, config: dict) -> torch.nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config["vocab"],
                hidden_size=384,
                num_hidden_layers=6,
                num_attention_heads=6,
                num_key_value_heads=2,
                intermediate_size=1024,
                max_position_embeddings=config["context"],
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                attn_implementation="sdpa",
            )
        )

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # `shift_labels`: the targets are shifted already, so that each of the T positions has one, as for the others.
        return self.call(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss


class LitGPT(Peer):
    packages = ("litgpt",)

    def build(self, config: dict) -> torch.nn.Module:
        from litgpt.config import Config
        from litgpt.model import GPT

        model = GPT(
            Config(
                block_size=config["context"],
                vocab_size=config["vocab"],
                padded_vocab_size=config["vocab"],
                n_layer=6,
                n_embd=384,
                n_head=6,
                head_size=64,
                n_query_groups=2,
                intermediate_size=1024,
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                norm_eps=1e-5,
                mlp_class_name="LLaMAMLP",
            )
        )
        model.lm_head.weight = model.transformer.wte.weight
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.02)
        return model

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from litgpt.utils import chunked_cross_entropy

        return chunked_cross_entropy(self.call(inputs), targets)


class Gemm:
    """The yardstick: a square bf16 matmul, as large as the caches like it."""

    packages: tuple[str, ...] = ()
    size, repeats = 2048, 10

    def __init__(self, _config: dict) -> None:
        self.a = torch.randn(self.size, self.size, dtype=torch.bfloat16)
        self.b = torch.randn(self.size, self.size, dtype=torch.bfloat16)
        self.out = torch.empty_like(self.a)
        self.flops = 2 * self.size**3 * self.repeats

    def step(self, _inputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
        for _ in range(self.repeats):
            torch.mm(self.a, self.b, out=self.out)
        return torch.zeros(())


CONTESTANTS = {"vitruvius": Vitruvius, "hf": HuggingFace, "litgpt": LitGPT, "gemm": Gemm}


def start(name: str, config: dict) -> tuple[object, dict]:
    torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    contestant = CONTESTANTS[name](config)
    model = getattr(contestant, "model", None)
    versions = {package: importlib.metadata.version(package) for package in ("torch", *contestant.packages)}
    return contestant, {
        "parameters": None if model is None else sum(p.numel() for p in model.parameters()),
        "flops": getattr(contestant, "flops", None),
        "versions": versions,
    }


def timed_step(contestant: object, config: dict, seed: int) -> dict:
    batch = tokens(config, seed)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    cpu, wall = time.process_time(), time.perf_counter()
    loss = float(contestant.step(inputs, targets).detach())
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "loss": loss,
        "tokens_sum": int(batch.sum()),
    }


def main() -> None:
    # Whatever a library prints goes to stderr; the pipe belongs to the protocol.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contestant, config = None, {}
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            config = command["config"]
            contestant, answer = start(sys.argv[1], config)
        else:
            answer = timed_step(contestant, config, command["seed"])
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
