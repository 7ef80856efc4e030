"""`train.samples`: text that the model writes while it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

MASK = "[MASK]"
"""What stands in a prompt for a hidden token."""
MOST_PROMPTS = 64
Prompt = Annotated[str, MaxLen(65_536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples(Section):
    """Text that the model writes while it learns."""

    effect: ClassVar[Literal["bits", "none"]] = "none"

    every: Annotated[int, Ge(1), Le(2**31 - 1)] | None = None
    """Steps between the updates after which the model writes, and after the last one; null: it never does."""
    prompts: tuple[Prompt, ...] = ("",)
    """What it continues, each by itself; an empty prompt is the start of a document. With an encoder it is what the
    encoder reads; under an `mlm` head it has `[MASK]` where tokens are to be filled in."""
    max_tokens: Annotated[int, Ge(1), Le(65_536)] = 64
    """Tokens of a text at most."""
    temperature: Annotated[float, Ge(0.0), Le(100.0)] = 0.8
    """As in `vitruvius generate`; 0 takes the likeliest token."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Draws the tokens; the same at every step, so that only the model makes the difference."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Prompts that say nothing to this kind of model."""
        del config
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            what = "no prompt is named" if not self.prompts else f"{len(self.prompts):,} prompts are too many"
            fix = f"write 1 to {MOST_PROMPTS}: prompts: ['Once']"
            yield Finding(path="train.samples.prompts", what=what, fix=fix)
        if self.every is None or architecture is None:
            return
        fills = architecture.encoder is None and not architecture.head.causal
        for number, prompt in enumerate(self.prompts):
            path = f"train.samples.prompts.{number}"
            if fills and MASK not in prompt:
                what = f"{architecture.name} fills in hidden tokens, and this prompt has none"
                yield Finding(path=path, what=what, fix=f"write {MASK} where tokens are hidden: 'Once {MASK} a time'")
            if any("\ud800" <= character <= "\udfff" for character in prompt):
                yield Finding(path=path, what="the prompt is not UTF-8", fix="leave out what is half a character")
