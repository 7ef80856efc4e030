"""The tokenizer of a job: the one that was named, or one trained on documents that are not held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.job.kept import HASH_RANGE
from vitruvius.data.job.splitting import staying_rows
from vitruvius.data.job.stage import Stage
from vitruvius.data.tokenization.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.job.job import Job

TRAINING_TEXT_BYTES = 256 * 2**20
"""A larger corpus trains its tokenizer on a sample of about this size, drawn by the hash of each document."""
TOKENIZER = "tokenizer.json"


@final
class TokenizerStage(Stage):
    """One task, or none where a tokenizer was named."""

    __slots__ = ()
    name = "tokenizer"
    verb = "training the tokenizer"

    def tasks(self, job: Job) -> int:
        """One, unless the job came with a tokenizer."""
        return 1 if job.plan.tokenizer_sha256 is None else 0

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Train it."""
        del task
        from vitruvius.data.tokenization.tokenizer import train
        from vitruvius.data.tokenization.training import TrainOptions

        tokenizer = train(
            _training_texts(job), TrainOptions(kind=job.options.tokenizer_kind, vocab_size=job.options.vocab)
        )
        tokenizer.save(job.folder(self.name) / TOKENIZER)
        return {"vocab_size": tokenizer.vocab_size}


def tokenizer_of(job: Job) -> Tokenizer:
    """The tokenizer of the job, once there is one."""
    if job.plan.tokenizer_sha256 is None:
        return load_tokenizer(job.folder(TokenizerStage.name) / TOKENIZER)
    return load_tokenizer(job.directory / TOKENIZER, eos=job.plan.eos)


def _training_texts(job: Job) -> Iterator[str]:
    """The texts that are not held out, or a sample of them, in the order of their documents."""
    split = job.summary("split", 0)
    share = int(min(1.0, TRAINING_TEXT_BYTES / max(1, split["text_bytes"])) * HASH_RANGE)
    for unit in range(len(job.units)):
        kept = job.kept(unit)
        for row in staying_rows(job, unit):
            if int(row["place"]) >= split["held_out_below"] and int(row["draw"]) < share:
                yield kept.text_at(row)
