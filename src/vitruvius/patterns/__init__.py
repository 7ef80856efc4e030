"""Who attends to whom: the algebra of attention patterns, its text form, and what follows from a pattern.

`causal & (sliding(4096) | global_(every=128))` in Python is `parse("causal & (sliding(4096) | global(every=128))")`.
"""

from vitruvius.patterns.algebra import MOST_CLAUSES, Pattern
from vitruvius.patterns.arithmetic import FOREVER, LIMIT, NEVER
from vitruvius.patterns.clause import Clause
from vitruvius.patterns.count import Count
from vitruvius.patterns.names import (
    NAMED,
    NamedPattern,
    Parameter,
    around,
    block,
    causal,
    dilated,
    everything,
    global_,
    load_patterns,
    register,
    sinks,
    sliding,
    smaller_by,
    stride,
    stride2d,
)
from vitruvius.patterns.own import register_predicate, unregister
from vitruvius.patterns.picture import picture_of, to_svg, to_text
from vitruvius.patterns.scaling import fit_text, shrink_text
from vitruvius.patterns.segments import Segment, fold, full_tile, segments
from vitruvius.patterns.stores import Archive, StorePlan, plan
from vitruvius.patterns.text import parse

__all__ = [
    "FOREVER",
    "LIMIT",
    "MOST_CLAUSES",
    "NAMED",
    "NEVER",
    "Archive",
    "Clause",
    "Count",
    "NamedPattern",
    "Parameter",
    "Pattern",
    "Segment",
    "StorePlan",
    "around",
    "block",
    "causal",
    "dilated",
    "everything",
    "fit_text",
    "fold",
    "full_tile",
    "global_",
    "load_patterns",
    "parse",
    "picture_of",
    "plan",
    "register",
    "register_predicate",
    "segments",
    "shrink_text",
    "sinks",
    "sliding",
    "smaller_by",
    "stride",
    "stride2d",
    "to_svg",
    "to_text",
    "unregister",
]
