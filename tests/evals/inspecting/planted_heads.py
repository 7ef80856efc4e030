"""A model whose heads are set by hand: what they do is known before anybody looks."""

from __future__ import annotations

import torch

from vitruvius.nn import Model, build
from vitruvius.spec import read_text

VOCAB, PLACES = 40, 64
WIDTH = 2 * VOCAB + PLACES
HEAD = VOCAB + PLACES
SHARP = 400.0
"""So large that a softmax over 64 keys is an argmax to all digits that matter."""
FIRST_LAYER = ("previous", "first", "duplicate", "broad")
"""What each head of the first layer does; the first head of the second layer induces, the others look anywhere."""

SPEC = f"""\
name: planted
vocab_size: {VOCAB}
width: {WIDTH}
context: {PLACES}
embedding: {{position: {{kind: learned, size: {PLACES}}}}}
head: {{kind: lm, tied: true}}
blocks:
  layer:
    mixer: {{kind: attention, heads: 4, head_width: {HEAD}, sees: causal, position: null}}
    ffn: {{kind: mlp, hidden: 4, activation: gelu}}
layers: layer*2
"""


def planted() -> Model:
    """The model. Channels are: the token, one-hot; its place, one-hot; the token before, which layer 0 copies there."""
    model = build(read_text(SPEC).architecture, dtype=torch.float32, seed=0).eval()
    token = slice(0, VOCAB)
    place = slice(VOCAB, VOCAB + PLACES)
    before = slice(VOCAB + PLACES, WIDTH)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if not name.endswith("norm.gain") and "norm" not in name:
                parameter.zero_()
        embedding, positions = model.embedding.tokens.weight, parameters["embedding.position.weight"]
        embedding[:, token] = torch.eye(VOCAB)
        positions[:, place] = torch.eye(PLACES)
        first, second = model.layers[0].mixer, model.layers[1].mixer
        places = slice(VOCAB, HEAD)

        def of(head: int, weight: torch.Tensor) -> torch.Tensor:
            return weight[head * HEAD : (head + 1) * HEAD]

        # Head 0 asks for the place before its own, and hands on the token that stands there.
        of(0, first.q.weight)[places, place] = SHARP * torch.diag(torch.ones(PLACES - 1), 1)
        of(0, first.k.weight)[places, place] = torch.eye(PLACES)
        of(0, first.v.weight)[:VOCAB, token] = torch.eye(VOCAB)
        first.out.weight[before, :VOCAB] = torch.eye(VOCAB)
        # Head 1 asks for place 0, wherever it stands.
        of(1, first.q.weight)[VOCAB, place] = SHARP
        of(1, first.k.weight)[places, place] = torch.eye(PLACES)
        # Head 2 asks for its own token, in another place.
        of(2, first.q.weight)[:VOCAB, token] = SHARP * torch.eye(VOCAB)
        of(2, first.q.weight)[places, place] = -2 * SHARP * torch.eye(PLACES)
        of(2, first.k.weight)[:VOCAB, token] = torch.eye(VOCAB)
        of(2, first.k.weight)[places, place] = torch.eye(PLACES)
        # Head 0 of the second layer asks for a place that stands behind its own token.
        of(0, second.q.weight)[:VOCAB, token] = SHARP * torch.eye(VOCAB)
        of(0, second.k.weight)[:VOCAB, before] = torch.eye(VOCAB)
    return model
