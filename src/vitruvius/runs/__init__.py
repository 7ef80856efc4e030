"""What happened: run folders, events, metrics, manifests, environment. Files only, standard library only.

A run folder is the one record of everything that runs; reports, the studio and resume read nothing else.
"""

from __future__ import annotations

from vitruvius.runs.folder import Checkpoint, RunFolder, RunReader, RunStatus
from vitruvius.runs.manifest import verify_manifest, write_manifest
from vitruvius.runs.record import ReproducibilityRecord, reproducibility_record

__all__ = [
    "Checkpoint",
    "ReproducibilityRecord",
    "RunFolder",
    "RunReader",
    "RunStatus",
    "reproducibility_record",
    "verify_manifest",
    "write_manifest",
]
