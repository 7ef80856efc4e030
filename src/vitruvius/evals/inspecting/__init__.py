"""What happens inside a model while it reads: where heads look, which experts work on what, what gates let through.

    from vitruvius.evals.inspecting import inspect, subject_of

    document = inspect(subject_of("runs/first"))

The document is plain JSON data; `vitruvius.report.inspect_page` draws it.
"""

from __future__ import annotations

from vitruvius.evals.inspecting.inspection import Ask, inspect
from vitruvius.evals.inspecting.roles import Thresholds
from vitruvius.evals.inspecting.subject import Inspected, subject_of

__all__ = ["Ask", "Inspected", "Thresholds", "inspect", "subject_of"]
