"""Train an architecture of yours with Hugging Face's Trainer, on data that `vitruvius data prepare` wrote.

    pip install 'vitruvius[hf]'
    vitruvius data prepare python-stdlib --out data --vocab 8192
    python examples/hf_trainer.py context-aware-bert --data data --out results
    python examples/hf_trainer.py tiny-llama --data data --out results-causal --learning-rate 1e-3

The numbers that are not given are those of the tutorial "How to Implement a Unique LLM Architecture": 1,000 training
and 100 evaluation examples, batch 8, 3 epochs, learning rate 2e-5, weight decay 0.01, evaluation after each epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

import vitruvius as vt
from vitruvius.training import TrainConfig
from vitruvius.training.huggingface import Collator, ForTrainer, Keeping, Rows, tokenizer_of_data


def main() -> None:
    words = argparse.ArgumentParser(description="Hugging Face's Trainer on an architecture of ours.")
    words.add_argument("spec", help="a preset or a file")
    words.add_argument("--data", required=True, help="what `vitruvius data prepare` (or `data pairs`) wrote")
    words.add_argument("--out", required=True, help="output_dir of the Trainer")
    words.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE")
    words.add_argument("--objective", help="as train.objective; the architecture's own when not given")
    words.add_argument("--train-examples", type=int, default=1000)
    words.add_argument("--eval-examples", type=int, default=100)
    words.add_argument("--epochs", type=float, default=3)
    words.add_argument("--batch", type=int, default=8)
    words.add_argument("--learning-rate", type=float, default=2e-5)
    words.add_argument("--weight-decay", type=float, default=0.01)
    words.add_argument("--seed", type=int, default=42)
    words.add_argument("--bf16", action="store_true", help="compute in bf16 under fp32 weights")
    words.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    given = words.parse_args()

    spec = vt.preset(given.spec, overrides=given.overrides) if not Path(given.spec).is_file() else vt.read(given.spec)
    config = TrainConfig(objective=given.objective, seed=given.seed)
    arguments = TrainingArguments(
        output_dir=given.out,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        learning_rate=given.learning_rate,
        per_device_train_batch_size=given.batch,
        per_device_eval_batch_size=given.batch,
        num_train_epochs=given.epochs,
        weight_decay=given.weight_decay,
        seed=given.seed,
        bf16=given.bf16,
        use_cpu=not torch.accelerator.is_available(),
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=ForTrainer(spec, seed=given.seed),
        args=arguments,
        train_dataset=Rows(given.data, spec, config, most=given.train_examples),
        eval_dataset=Rows(given.data, spec, config, split="validation", most=given.eval_examples),
        data_collator=Collator(spec, config),
        processing_class=tokenizer_of_data(given.data, spec),
        callbacks=[Keeping()],
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=given.resume or None)
    trainer.save_model()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row or "loss" in row]
    print(json.dumps({"before": before["eval_loss"], "epochs": rows}, indent=2))


if __name__ == "__main__":
    main()
