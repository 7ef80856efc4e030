"""Our models in Hugging Face's `Trainer`: a model it can drive, rows of our data, a collator, a tokenizer.

    from transformers import Trainer, TrainingArguments
    from vitruvius.training.huggingface import Collator, ForTrainer, Keeping, Rows, tokenizer_of_data

    spec = vt.preset("context-aware-bert")
    trainer = Trainer(
        model=ForTrainer(spec),
        args=TrainingArguments(output_dir="results", eval_strategy="epoch", learning_rate=2e-5, num_train_epochs=3),
        train_dataset=Rows("data/books", spec, most=1000),
        eval_dataset=Rows("data/books", spec, split="validation", most=100),
        data_collator=Collator(spec),
        processing_class=tokenizer_of_data("data/books", spec),
        callbacks=[Keeping()],
    )

torch is needed by all of it, transformers by `Keeping` and the tokenizer alone: `pip install 'vitruvius[hf]'`.
"""

from __future__ import annotations

from vitruvius.training.huggingface.callbacks import Keeping
from vitruvius.training.huggingface.collating import Collator
from vitruvius.training.huggingface.model import ForTrainer, load_trained
from vitruvius.training.huggingface.rows import Row, Rows
from vitruvius.training.huggingface.tokenizer import tokenizer_of_data

__all__ = ["Collator", "ForTrainer", "Keeping", "Row", "Rows", "load_trained", "tokenizer_of_data"]
