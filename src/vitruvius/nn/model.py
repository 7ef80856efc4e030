"""A built architecture: a plain torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from vitruvius.errors import UsageError
from vitruvius.nn.block import LayerModule
from vitruvius.nn.cache import Cache, LayerCache
from vitruvius.nn.embeddings import EmbeddingModule
from vitruvius.nn.place import BackendName, Place, Signals, place_packed
from vitruvius.nn.registry import Factory, make

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.shapes import Float, Int
    from vitruvius.spec import Architecture, Graph


class Model(nn.Module):
    """Embedding, layers, final norm and head, as `vitruvius.spec.graph` resolves them.

    Parameter names equal those of `graph.tensors()`. Weights start undefined: `build` draws them.
    """

    def __init__(self, graph: Graph, factory: Factory) -> None:
        super().__init__()
        self.graph = graph
        self.backend: BackendName = "auto"
        scope, architecture = graph.scope, graph.architecture
        self.embedding = EmbeddingModule(architecture.embedding, scope, factory)
        built: list[LayerModule] = []
        for layer in graph.layers:
            built.append(LayerModule(layer, scope, factory) if layer.owns_weights else built[layer.weights])
        self.layers = nn.ModuleList(built)
        self.final_norm = None if graph.final_norm is None else make(graph.final_norm, scope.width, factory)
        self.head = make(architecture.head, scope, factory)

    @property
    def architecture(self) -> Architecture:
        """The spec this model was built from."""
        return self.graph.architecture

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the parameters."""
        return self.embedding.tokens.weight.dtype

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        counts: Sequence[int] | None = None,
        signals: Signals | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the model's dtype. Arguments as for `hidden`."""
        h_BTD = self.hidden(tokens_BT, documents=documents, cache=cache, counts=counts, signals=signals)
        return self.head(h_BTD, self.embedding.tokens.weight)

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        counts: Sequence[int] | None = None,
        signals: Signals | None = None,
    ) -> Tensor:
        """The residual stream under the head, [B, T, D].

        tokens_BT: int64 ids. documents: [B, T] document of each token of packed rows; attention and positions stay
        inside a document. cache: continue the sequences it holds. counts: with a cache, how many tokens of each row
        are real when rows are padded on the right; outputs at padding mean nothing.

        Raises UsageError when the arguments do not go together or the cache is full, PositionOverflowError when a
        learned table is too short.
        """
        self._check_tokens(tokens_BT, documents)
        place = self._place(tokens_BT, documents, cache, signals)
        if cache is not None:
            cache.begin(tokens_BT.shape[0], tokens_BT.shape[1], counts)
        x_BTD = self.embedding(tokens_BT, place)
        for index, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, place, None if cache is None else cache.layers[index])
        if cache is not None:
            cache.commit()
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def _check_tokens(self, tokens_BT: Tensor, documents: Tensor | None) -> None:
        shape = tuple(tokens_BT.shape)
        if len(shape) != 2 or shape[1] == 0:
            raise UsageError(f"tokens have shape {shape}", fix="pass ids of shape [batch, time], one token or more")
        if tokens_BT.dtype not in {torch.int64, torch.int32}:
            raise UsageError(f"tokens are {tokens_BT.dtype}", fix="pass ids as int64")
        if documents is not None and documents.shape != tokens_BT.shape:
            raise UsageError(f"documents have shape {tuple(documents.shape)} and tokens {shape}")
        # Looking at ids elsewhere would wait for the device, which reports a bad one by itself.
        if tokens_BT.device.type == "cpu" and tokens_BT.numel():
            low, high = int(tokens_BT.min()), int(tokens_BT.max())
            if low < 0 or high >= self.architecture.vocab_size:
                bad = low if low < 0 else high
                raise UsageError(f"token id {bad} is outside the vocabulary of {self.architecture.vocab_size:,}")

    def loss(
        self,
        tokens_BT: Int[Tensor, "B T"],
        targets_BT: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        signals: Signals | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Cross-entropy in nats of the targets (-100 counts nothing): a mean, or [B, T] when `per_token`.

        Auxiliary losses of routers are in `signals.losses`, not in here.
        """
        h_BTD = self.hidden(tokens_BT, documents=documents, signals=signals)
        table_VD = self.embedding.tokens.weight
        losses = self.head.loss(h_BTD.flatten(0, 1), targets_BT.flatten(), table_VD, per_token=per_token)
        return losses.view_as(targets_BT) if per_token else losses

    def cache(self, batch: int, *, capacity: int) -> Cache:
        """Decode state for `batch` sequences of up to `capacity` tokens, allocated at once and never grown.

        Its tensors take exactly the bytes that `vitruvius.size` prints. Raises UsageError for numbers below 1.
        """
        if batch < 1 or capacity < 1:
            raise UsageError(f"a cache for {batch} sequences of {capacity} tokens holds nothing", fix="use 1 or more")
        states: list[LayerCache | None] = [
            None if layer.mixer is None else layer.mixer.decode_state(batch, capacity)
            for layer in cast("list[LayerModule]", list(self.layers))
        ]
        return Cache(states, batch=batch, capacity=capacity, device=self.device)

    def _place(
        self, tokens_BT: Tensor, documents: Tensor | None, cache: Cache | None, signals: Signals | None
    ) -> Place:
        if documents is not None:
            if cache is not None:
                raise UsageError("packed documents cannot go through a cache", fix="pass documents or cache, not both")
            positions = place_packed(documents)
        elif cache is not None:
            positions = cache.positions(tokens_BT.shape[1])
        else:
            positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return Place(positions=positions, documents=documents, backend=self.backend, signals=signals)
