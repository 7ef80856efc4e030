"""How batches come to the loop: read when they are due, or ahead by threads or processes.

Whoever reads them, they are `PackedBatches.at` and the hooks of `train.preprocess`: a function of the run's seed and
the batch's number. Nothing here has state that a resume would need. No torch.
"""

from __future__ import annotations

from vitruvius.training.loading.loader import BatchLoader

__all__ = ["BatchLoader"]
