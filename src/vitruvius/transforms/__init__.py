"""Surgery on built models: what goes in is a model, what comes out is one whose spec says what was done."""

from vitruvius.transforms.upcycle import upcycle

__all__ = ["upcycle"]
