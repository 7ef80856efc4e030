"""Token shards on disk, and the batches that a training step reads from them."""
