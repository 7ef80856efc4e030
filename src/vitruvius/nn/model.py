"""A built architecture: a plain torch module."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from vitruvius.errors import UsageError
from vitruvius.nn.cache import Cache, LayerState
from vitruvius.nn.checkpointing import through
from vitruvius.nn.cross import Source
from vitruvius.nn.embeddings import EmbeddingModule
from vitruvius.nn.encoder import EncoderModule, place_source
from vitruvius.nn.mtp import build_mtp, shifted, targets_ahead
from vitruvius.nn.ops import LossParts
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.place import BackendName, Place, Signals, place_packed
from vitruvius.nn.registry import Factory, make
from vitruvius.nn.stack import StreamsModule, build_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.block import LayerModule
    from vitruvius.nn.mtp import TokenAhead
    from vitruvius.nn.shapes import Float, Int
    from vitruvius.spec import Architecture, Graph
    from vitruvius.spec.recomputing import Checkpointing


class Model(nn.Module):
    """Embedding, layers, final norm and head, as `vitruvius.spec.graph` resolves them.

    Parameter names equal those of `graph.tensors()`. Weights start undefined: `build` draws them.
    """

    def __init__(self, graph: Graph, factory: Factory) -> None:
        super().__init__()
        self.graph = graph
        self.backend: BackendName = "auto"
        self.checkpointing: Checkpointing = "none"
        """`layers`: what a layer keeps for its backward pass is computed again there, for less memory."""
        self.passes_alike = False
        """Whether every layer belongs to the backward pass of every loss, since other processes wait for it there."""
        scope, architecture = graph.scope, graph.architecture
        self.embedding = EmbeddingModule(architecture.embedding, scope, factory)
        self.layers = build_layers(graph.layers, factory)
        self.streams = StreamsModule(architecture.streams, scope, factory)
        self.encoder = EncoderModule(graph, factory) if graph.encoder else None
        self.standing_source: Tensor | None = None
        """Source ids [1, S] that every row reads when a call brings none; for probes, and prompts that never change."""
        self.final_norm = None if graph.final_norm is None else make(graph.final_norm, scope.width, factory)
        self.head = make(architecture.head, scope, factory)
        self.mtp = build_mtp(graph, factory)

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
        source: Int[Tensor, "B S"] | None = None,
        source_lengths: Sequence[int] | None = None,
        prefix: Sequence[int] | None = None,
        cache: Cache | None = None,
        counts: Sequence[int] | None = None,
        signals: Signals | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the model's dtype. Arguments as for `hidden`."""
        h_BTD = self.hidden(
            tokens_BT,
            documents=documents,
            source=source,
            source_lengths=source_lengths,
            prefix=prefix,
            cache=cache,
            counts=counts,
            signals=signals,
        )
        return self.head(h_BTD, self.embedding.tokens.weight)

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        documents: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Sequence[int] | None = None,
        prefix: Sequence[int] | None = None,
        cache: Cache | None = None,
        counts: Sequence[int] | None = None,
        signals: Signals | None = None,
    ) -> Tensor:
        """The residual stream under the head, [B, T, D].

        tokens_BT: int64 ids. documents: [B, T] document of each token of packed rows; attention and positions stay
        inside a document. source, source_lengths: for an encoder-decoder, the ids [B, S] of the source texts and how
        many of each row are real; with a cache they are needed when a sequence starts and kept from then on. prefix:
        how many of the first tokens of each row (of each document, in packed rows) layers with an open prefix read in
        both directions; with a cache they must come in one call. cache: continue the sequences it holds. counts: with
        a cache, how many tokens of each row are real when rows are padded on the right; outputs at padding mean
        nothing.

        Raises UsageError when the arguments do not go together or the cache is full, PositionOverflowError when a
        learned table is too short.
        """
        self._check_tokens(tokens_BT, documents)
        place = self._place(tokens_BT, documents, cache, signals)
        place = replace(place, prefix=self._prefix(prefix, tokens_BT, cache))
        x_BTD = self._stream(tokens_BT, place, (source, source_lengths), cache, counts)
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def _stream(
        self,
        tokens_BT: Tensor,
        place: Place,
        source: tuple[Tensor | None, Sequence[int] | None],
        cache: Cache | None,
        counts: Sequence[int] | None,
    ) -> Tensor:
        """The residual stream after the last layer, [B, T, D]."""
        if cache is not None:
            cache.begin(tokens_BT.shape[0], tokens_BT.shape[1], counts)
        place = replace(place, source=self._read(source, tokens_BT.shape[0], place, cache))
        x_BTD = self.embedding(tokens_BT, place)
        x_BTD = self._through_layers(x_BTD, place, cache)
        if cache is not None:
            cache.commit()
        return x_BTD

    def encode(
        self, source_BS: Tensor, *, lengths: Sequence[int] | None = None, signals: Signals | None = None
    ) -> Tensor:
        """What the encoder makes of source ids, [B, S, D]; rows are padded beyond `lengths`.

        Raises UsageError when the architecture has no encoder, or tokens or lengths do not fit.
        """
        if self.encoder is None:
            raise UsageError(f"{self.architecture.name} has no encoder", fix="pass tokens alone")
        self._check_tokens(source_BS, None)
        batch, length = source_BS.shape
        if lengths is not None and (len(lengths) != batch or any(not 1 <= n <= length for n in lengths)):
            raise UsageError(f"source lengths {list(lengths)[:8]} do not fit {batch} rows of {length} tokens")
        place = place_source(length, lengths, source_BS.device, self.backend, signals)
        place = replace(place, tokens=source_BS, checkpointing=self.checkpointing)
        return self.encoder(self.embedding(source_BS, place), place)

    def _read(
        self,
        source: tuple[Tensor | None, Sequence[int] | None],
        batch: int,
        place: Place,
        cache: Cache | None,
    ) -> Source | None:
        """The encoded source where one is needed now: without a cache always, with one when a sequence starts."""
        source_BS, lengths = source
        if self.encoder is None:
            if source_BS is not None:
                raise UsageError(f"{self.architecture.name} has no encoder", fix="pass tokens alone")
            return None
        if source_BS is None:
            source_BS = self.standing_source
        if cache is not None and not cache.starts_a_row:
            return None
        if source_BS is None:
            what = f"{self.architecture.name} reads a source, and none was given"
            raise UsageError(what, fix="pass source=ids [batch, time]")
        if source_BS.shape[0] not in {1, batch}:
            raise UsageError(f"there are {source_BS.shape[0]} sources for {batch} rows", fix="pass one for each row")
        h_BSD = self.encode(source_BS, lengths=lengths, signals=place.signals)
        return Source(h_BSD=h_BSD, lengths=None if lengths is None else tuple(lengths))

    def _prefix(self, prefix: Sequence[int] | None, tokens_BT: Tensor, cache: Cache | None) -> Tensor | None:
        if prefix is None:
            return None
        batch, length = tokens_BT.shape
        if len(prefix) != batch or any(type(n) is not int or n < 0 for n in prefix):
            raise UsageError(f"prefix lengths {list(prefix)[:8]} do not fit {batch} rows", fix="pass one for each row")
        if cache is not None and any(n > length or start for n, start in zip(prefix, cache.lengths, strict=True)):
            what = "a prefix that is read in both directions must enter the cache in one call, at the start"
            raise UsageError(what, fix=f"pass its {max(prefix):,} tokens at once, and no prefix afterwards")
        return torch.tensor(list(prefix), device=tokens_BT.device)

    def _through_layers(self, x_BTD: Tensor, place: Place, cache: Cache | None) -> Tensor:
        streams = self.streams.start(x_BTD)
        for index, (layer, module) in enumerate(zip(self.graph.layers, self.layers, strict=True)):
            x_BTD = streams.enter(index, x_BTD)
            state = None if cache is None else cache.layers[index]
            x_BTD = through(module, x_BTD, replace(place, layer=layer), state)
            streams.leave(index, x_BTD)
        return x_BTD

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
            _check_ids(tokens_BT, self.architecture.vocab_size)

    def loss(
        self,
        tokens_BT: Int[Tensor, "B T"],
        targets_BT: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        source: Int[Tensor, "B S"] | None = None,
        source_lengths: Sequence[int] | None = None,
        prefix: Sequence[int] | None = None,
        signals: Signals | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Cross-entropy in nats of the targets (-100 counts nothing): a mean, or [B, T] when `per_token`.

        Auxiliary losses of routers and of multi-token prediction are in `signals.losses`, not in here; a z-loss that
        `signals.z_loss` asks for is (the tokens further ahead have none).
        """
        self._check_tokens(tokens_BT, documents)
        place = self._place(tokens_BT, documents, None, signals)
        place = replace(place, prefix=self._prefix(prefix, tokens_BT, None))
        x_BTD = self._stream(tokens_BT, place, (source, source_lengths), None, None)
        if signals is not None and len(self.mtp):
            self._look_ahead(x_BTD, tokens_BT, targets_BT, place, signals)
        h_BTD = x_BTD if self.final_norm is None else self.final_norm(x_BTD)
        table_VD = self.embedding.tokens.weight
        h_ND, targets_N = h_BTD.flatten(0, 1), targets_BT.flatten()
        if signals is not None and signals.z_loss and not per_token:
            return self._with_z_loss(h_ND, targets_N, signals)
        losses = self.head.loss(h_ND, targets_N, table_VD, per_token=per_token)
        return losses.view_as(targets_BT) if per_token else losses

    def _with_z_loss(self, h_ND: Tensor, targets_N: Tensor, signals: Signals) -> Tensor:
        """The mean loss with a z-loss in it; signals are told what it is made of."""
        parts = LossParts()
        table_VD = self.embedding.tokens.weight
        total = self.head.loss(h_ND, targets_N, table_VD, z_loss=signals.z_loss, parts=parts)
        signals.cross_entropy = parts.cross_entropy
        for name in ("z_loss", "lse_mean", "lse_max"):
            signals.report(name, getattr(parts, name))
        return total

    def _look_ahead(self, x_BTD: Tensor, tokens_BT: Tensor, targets_BT: Tensor, place: Place, signals: Signals) -> None:
        """Add the mean loss of multi-token prediction, times its weight, to the auxiliary losses."""
        mtp = self.architecture.mtp
        assert mtp is not None
        losses: list[Tensor] = []
        documents = place.documents
        for ahead, (layer, module) in enumerate(
            zip(self.graph.mtp, cast("list[TokenAhead]", self.mtp), strict=True), 1
        ):
            if tokens_BT.shape[1] <= ahead:
                break
            place = shifted(place, layer)
            x_BTD = module(x_BTD[:, :-1], self.embedding.tokens(tokens_BT[:, ahead:]), place)
            targets = targets_ahead(targets_BT, documents, ahead)
            if bool((targets >= 0).any()):
                h_ND = module.final_norm(x_BTD).flatten(0, 1)
                losses.append(self.head.loss(h_ND, targets.flatten(), self.embedding.tokens.weight))
            elif self.passes_alike:
                signals.losses.append((x_BTD * 0).sum())
        if losses:
            mean = torch.stack(losses).mean()
            signals.report("mtp_loss", mean)
            signals.losses.append(mtp.loss_weight * mean)

    def cache(self, batch: int, *, capacity: int, source_capacity: int | None = None) -> Cache:
        """Decode state for `batch` sequences of up to `capacity` tokens, allocated at once and never grown.

        Sources of an encoder-decoder may be up to `source_capacity` tokens long, `capacity` when not given. Its tensors
        take exactly the bytes that `vitruvius.size` prints. Raises UsageError for numbers below 1, and for a stack that
        sees later tokens.
        """
        if not self.graph.is_causal:
            what = f"{self.architecture.name} sees later tokens, so each new one changes all before it"
            raise UsageError(what, fix="run whole sequences, without a cache")
        if batch < 1 or capacity < 1:
            raise UsageError(f"a cache for {batch} sequences of {capacity} tokens holds nothing", fix="use 1 or more")
        states = [
            LayerState(
                mixer=None
                if layer.mixer is None or layer.keys_from is not None
                else module.mixer.decode_state(batch, capacity, layer.scope),
                cross=None
                if layer.cross is None
                else module.cross.decode_state(batch, source_capacity or capacity, layer.scope),
            )
            for layer, module in zip(self.graph.layers, cast("list[LayerModule]", list(self.layers)), strict=True)
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
        return Place(
            positions=positions,
            documents=documents,
            tokens=tokens_BT,
            backend=self.backend,
            checkpointing=self.checkpointing,
            signals=signals,
        )


@uncompiled  # it asks for numbers: a compiler would break off there, and say so to whoever trains
def _check_ids(tokens_BT: Tensor, vocab_size: int) -> None:
    low, high = int(tokens_BT.min()), int(tokens_BT.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise UsageError(f"token id {bad} is outside the vocabulary of {vocab_size:,}")
