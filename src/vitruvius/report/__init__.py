"""What others read: drawings, bills and comparisons of architectures, as text and as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture

__all__ = ["Drawing", "draw", "svg_of", "text_of"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """An architecture that draws itself: as SVG in a notebook, as text wherever it is printed."""

    architecture: Architecture

    @property
    def svg(self) -> str:
        """The drawing as a complete SVG document."""
        return svg_of(self.architecture)

    def __str__(self) -> str:
        """The drawing as text."""
        return text_of(self.architecture)

    def _repr_svg_(self) -> str:
        return self.svg


def draw(architecture: Architecture) -> Drawing:
    """The drawing of an architecture. Raises SpecError when it does not fit together."""
    from vitruvius.spec.rules import ensure

    ensure(architecture)
    return Drawing(architecture)


def svg_of(architecture: Architecture) -> str:
    """The drawing of an architecture as a complete SVG document. Raises SpecError when it does not fit together."""
    from vitruvius.report.diagram import diagram_of
    from vitruvius.report.diagram_svg import draw_svg

    return draw_svg(diagram_of(architecture))


def text_of(architecture: Architecture, *, width: int = 80) -> str:
    """The drawing of an architecture in Unicode, `width` columns wide. Raises SpecError as `svg_of` does."""
    from vitruvius.report.diagram import diagram_of
    from vitruvius.report.diagram_text import Look, draw_text

    return draw_text(diagram_of(architecture), Look(width=width))
