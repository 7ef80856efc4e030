"""Training plans over many devices: degrees of parallelism, memory of a rank, messages, time."""

from vitruvius.sizing.parallel.degrees import Degrees, Schedule
from vitruvius.sizing.parallel.evaluate import Plan, RankMemory
from vitruvius.sizing.parallel.search import Plans, Refused, plans

__all__ = ["Degrees", "Plan", "Plans", "RankMemory", "Refused", "Schedule", "plans"]
