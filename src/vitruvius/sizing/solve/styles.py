"""The style of an architecture that is there already: what `solve --from` keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError
from vitruvius.sizing.solve.shapes import Style
from vitruvius.spec.ffn.mlp import GeGLU, Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.heads import LanguageModelHead
from vitruvius.spec.mixers.attention import Attention

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture


def style_of(architecture: Architecture, *, vocab_size: int | None = None, context: int | None = None) -> Style:
    """Vocabulary, context, norms, head, embedding, init, QK-norm and the kind of feed-forward network of a spec.

    Raises UsageError for an encoder or an encoder-decoder: the layouts that are searched are those of decoders.
    """
    if architecture.encoder is not None or not isinstance(architecture.head, LanguageModelHead):
        what = f"{architecture.name} is no decoder, and the layouts that are searched are those of decoders"
        raise UsageError(what, where="--from", fix="name a spec with an lm head and without an encoder")
    mixers = [block.mixer for block in architecture.blocks.values() if isinstance(block.mixer, Attention)]
    return Style(
        vocab_size=vocab_size or architecture.vocab_size,
        context=context or architecture.context,
        ffn=_ffn(architecture),
        norm=architecture.norm,
        embedding=architecture.embedding,
        head=architecture.head,
        init=architecture.init,
        qk_norm=mixers[0].qk_norm if mixers else None,
    )


def _ffn(architecture: Architecture) -> Literal["swiglu", "geglu", "mlp"]:
    """Of the first feed-forward network, or of its experts."""
    for block in architecture.blocks.values():
        one = block.ffn.expert if isinstance(block.ffn, Moe) else block.ffn
        if isinstance(one, GeGLU):
            return "geglu"
        if isinstance(one, Mlp):
            return "mlp"
        if isinstance(one, SwiGLU):
            break
    return "swiglu"
