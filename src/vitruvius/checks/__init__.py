"""Is it right? Dynamic probes of a built model.

A probe measures one property and holds it against a stated bound. `check` runs the table over an architecture, its
twin when it is too big, or a built model; `check_callable` runs the few that fit any function of token ids.
"""

from vitruvius.checks.foreign import check_callable
from vitruvius.checks.outcome import Measure, Outcome, Report
from vitruvius.checks.subject import Subject
from vitruvius.checks.table import PROBES, Probe, check

__all__ = ["PROBES", "Measure", "Outcome", "Probe", "Report", "Subject", "check", "check_callable"]
