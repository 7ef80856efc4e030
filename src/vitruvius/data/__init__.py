"""Documents in, packed token shards out, and the batches a training step reads from them.

numpy and tokenizers are imported inside the functions that need them, so importing this package costs nothing.
"""

from __future__ import annotations

from vitruvius.data.packing.batches import Batch, PackedBatches
from vitruvius.data.packing.comparing import compare_packings
from vitruvius.data.packing.curriculum import Stage
from vitruvius.data.packing.shards import TokenShards, read_index
from vitruvius.data.packing.use import DataUse, use_of
from vitruvius.data.prepare import Prepared, PrepareOptions, prepare
from vitruvius.data.reading.corpora import standard_library_sources
from vitruvius.data.tokenization.tokenizer import StreamDecoder, Tokenizer, load_tokenizer, train_bpe

__all__ = [
    "Batch",
    "DataUse",
    "PackedBatches",
    "PrepareOptions",
    "Prepared",
    "Stage",
    "StreamDecoder",
    "TokenShards",
    "Tokenizer",
    "compare_packings",
    "load_tokenizer",
    "prepare",
    "read_index",
    "standard_library_sources",
    "train_bpe",
    "use_of",
]
