"""The tokenizer of prepared data as Hugging Face's, with a mask and a padding token after its own ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards, read_index
from vitruvius.errors import UsageError
from vitruvius.training.huggingface.extras import require_transformers

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from vitruvius.spec import Architecture

MASK, PAD = "[MASK]", "[PAD]"


def tokenizer_of_data(data: Path | str, architecture: Architecture) -> PreTrainedTokenizerFast:
    """A `PreTrainedTokenizerFast` with the ids of prepared data; `[MASK]` and `[PAD]` are the next free ones.

    Its longest text is the architecture's context. Raises UsageError where the architecture has no ids left for the
    two, DataError when the data is damaged, MissingExtraError where transformers is not installed.
    """
    require_transformers()
    import tokenizers
    from transformers import PreTrainedTokenizerFast as Fast

    ours = TokenShards.open(data, "train", verify="sizes").tokenizer()
    if ours.vocab_size + 2 > architecture.vocab_size:
        what = f"the data uses {ours.vocab_size:,} ids, and {MASK} and {PAD} need two more; vocab_size is "
        raise UsageError(
            what + f"{architecture.vocab_size:,}",
            where=str(data),
            fix=f"override the spec with vocab_size={ours.vocab_size + 2}, or prepare the data with a smaller --vocab",
        )
    inner: Any = tokenizers.Tokenizer.from_str(ours.text)
    known = inner.get_vocab_size()
    fast = Fast(
        tokenizer_object=inner,
        eos_token=read_index(data)["eos"],
        bos_token=None,
        unk_token=None if ours.unk_id is None else inner.id_to_token(ours.unk_id),
        mask_token=MASK,
        pad_token=PAD,
        model_max_length=architecture.context,
        padding_side="right",
    )
    loose: Any = fast
    taken: list[int] = sorted([loose.mask_token_id, loose.pad_token_id])
    if taken[-1] >= architecture.vocab_size:
        what = f"{MASK} and {PAD} have the ids {taken}, and vocab_size is {architecture.vocab_size:,}"
        raise UsageError(what, where=str(data), fix=f"override the spec with vocab_size={known + 2}")
    return fast
