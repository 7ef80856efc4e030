"""A model of ours as Hugging Face's Trainer calls one: keywords in, a loss out, labels in its own convention.

Labels stand where Hugging Face has them, -100 where nothing is asked:

    causal              labels[t] is the token at t, predicted from those before it: often just the input ids
    masked              labels[t] is the token that stood at t before it was hidden
    encoder-decoder     labels are the target; the decoder reads them shifted by one place, after the start token

What is saved are the model's own tensors under their own names, tied ones once: `load_trained` and `load_weights`
read a Trainer's checkpoint as one of ours.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from typing import cast as cast_to

import torch
from torch import Tensor, nn

from vitruvius.errors import RunError, UsageError
from vitruvius.nn import Signals, build
from vitruvius.nn.casting import cast
from vitruvius.nn.ops.compiling import keep_no_traces
from vitruvius.nn.weights import load_weights, tables_that_grow
from vitruvius.runs.checkpoints import MODEL_FILE
from vitruvius.spec import read
from vitruvius.spec.recomputing import POLICIES

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.spec.recomputing import Checkpointing

SPEC_FILE = "spec.yaml"
"""The architecture, beside the weights of a Trainer's checkpoint."""
IGNORED = -100


class ForTrainer(nn.Module):
    """A model that `transformers.Trainer` trains, evaluates, saves and resumes. It is none of theirs inside."""

    accepts_loss_kwargs = True
    """Tells the Trainer that a batch in several pieces is weighed by its targets, as our own loop does."""

    def __init__(
        self,
        model: Model | Architecture,
        *,
        start: int = 0,
        gives: Literal["loss", "loss and logits"] = "loss",
        context: int | None = None,
        seed: int = 0,
    ) -> None:
        """Wrap a model, or build an architecture in fp32.

        start: what a decoder with an encoder starts from, the separator of our data. gives: whether logits [B, T, V]
        come with the loss, for metrics of your own; without labels they always come. context: longest row, so that
        learned tables are that long before an optimizer knows them; the architecture's when not given.
        """
        super().__init__()
        keep_no_traces()  # the Trainer may compile
        self.model: Model = model if isinstance(model, nn.Module) else build(model, seed=seed)
        architecture = self.model.architecture
        for table in tables_that_grow(self.model).values():
            table.grow(context or architecture.context)
        self.start, self.gives = start, gives
        self.reads: Literal["causal", "masked", "source"] = (
            "source" if architecture.encoder is not None else "causal" if architecture.head.causal else "masked"
        )
        # By this the Trainer knows that the first label of a row is none.
        self.loss_type = "ForCausalLM" if self.reads == "causal" else "ForMaskedLM"

    @property
    def architecture(self) -> Architecture:
        """The spec that it was built from."""
        return self.model.architecture

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.model.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        documents: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """`loss`, and `logits` where they are wanted: of the tokens, or of the decoder's where there is an encoder.

        attention_mask: 0 at padding, which nothing reads. documents: [B, T] document of each token of packed rows, -1
        at padding. prefix_lengths: [B], of what an open prefix reads both ways. num_items_in_batch: targets of all
        pieces of an update; the loss is then their share of its mean. Raises UsageError when inputs do not go together.

        Under autocast (`bf16=True`, `fp16=True`) every weight is cast once and all is computed as in a model of ours in
        that format, statistics, softmax and loss in fp32; what is trained are the fp32 weights.
        """
        with self._as_cast(input_ids.device.type):
            if self.reads == "source":
                given = self._of_source(input_ids, attention_mask, labels, decoder_input_ids)
                targets = labels
            else:
                given = self._of_tokens(input_ids, attention_mask, documents, prefix_lengths)
                targets = _next(labels) if self.reads == "causal" and labels is not None else labels
            if targets is None:
                return {"logits": self.model(**given)}
            loss = self._loss(given, targets, num_items_in_batch)
            if self.training or self.gives == "loss":
                return {"loss": loss}
            return {"loss": loss, "logits": self.model(**given)}

    @contextlib.contextmanager
    def _as_cast(self, device_type: str) -> Generator[None]:
        """Whole weights in autocast's format, and nothing left for autocast to decide."""
        if not torch.is_autocast_enabled(device_type):
            yield
            return
        with torch.autocast(device_type, enabled=False), cast(self.model, torch.get_autocast_dtype(device_type)):
            yield

    def _loss(self, given: dict[str, Any], targets: Tensor, items: Tensor | int | None) -> Tensor:
        signals = Signals() if self.training else None
        tokens = given.pop("tokens_BT")
        loss = self.model.loss(tokens, targets, signals=signals, **given)
        given["tokens_BT"] = tokens
        if signals is not None and signals.losses:
            loss = loss + torch.stack([extra.float() for extra in signals.losses]).sum().to(loss.dtype)
        if items is None:
            return loss
        return loss * (targets.ne(IGNORED).sum() / items)

    def _of_tokens(
        self, input_ids: Tensor, mask: Tensor | None, documents: Tensor | None, prefix: Tensor | None
    ) -> dict[str, Any]:
        if mask is not None and bool((mask == 0).any()):
            real = mask != 0
            documents = real.long() - 1 if documents is None else torch.where(real, documents, -1)
        given: dict[str, Any] = {"tokens_BT": input_ids, "documents": documents}
        if prefix is not None:
            given["prefix"] = prefix.tolist()
        return given

    def _of_source(
        self, source: Tensor, mask: Tensor | None, labels: Tensor | None, decoder_ids: Tensor | None
    ) -> dict[str, Any]:
        if decoder_ids is None:
            if labels is None:
                what = f"{self.architecture.name} writes a target, and got neither labels nor decoder_input_ids"
                raise UsageError(what, fix="pass one of them")
            first = torch.full_like(labels[:, :1], self.start)
            decoder_ids = torch.cat([first, labels[:, :-1]], dim=1)
            decoder_ids = decoder_ids.masked_fill(decoder_ids == IGNORED, self.start)
        lengths = None
        if mask is not None:
            real = mask != 0
            lengths = real.sum(dim=1).tolist()
            places = torch.arange(source.shape[1], device=source.device)
            if bool((real != (places < real.sum(dim=1, keepdim=True))).any()):
                raise UsageError("sources are padded on the left", fix="pad them on the right")
        return {"tokens_BT": decoder_ids, "source": source, "source_lengths": lengths}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The model's own, under its own names."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001, FBT002 (torch's)
        """Take what `state_dict` gave."""
        return self.model.load_state_dict(state_dict, strict=strict, assign=assign)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, every_n_layers: int = 1, *, offload: bool = False
    ) -> None:
        """What `activation_checkpointing=True` calls: layers are computed again in the backward pass, to the same bits.

        every_n_layers: the first of so many, 1 to 4. Options of torch's `checkpoint` change nothing here: what a layer
        does again is what it did. Raises UsageError for more than 4, and for `offload`.
        """
        del activation_checkpointing_kwargs
        policy = "layers" if every_n_layers == 1 else f"layers/{every_n_layers}"
        if policy not in POLICIES:
            what = f"every_n_layers={every_n_layers} is none of the ways to compute layers again"
            raise UsageError(what, fix="use a whole number from 1 to 4")
        if offload:
            raise UsageError("activations that layers keep are not moved to the host", fix="leave offload out")
        self.model.checkpointing = cast_to("Checkpointing", policy)

    def activation_checkpointing_disable(self) -> None:
        """Layers keep what their backward pass needs."""
        self.model.checkpointing = "none"

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **options: Any) -> None:
        """As `activation_checkpointing_enable`: the name that transformers had for it before."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """As `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()

    def get_input_embeddings(self) -> nn.Module:
        """The table of the tokens, whose output `neftune_noise_alpha` adds noise to."""
        return self.model.embedding.tokens

    def __getattr__(self, name: str) -> Any:
        """As of every module. Raises AttributeError that says what goes without a config where one is asked for."""
        if name == "config":
            raise AttributeError(_NO_CONFIG)
        return super().__getattr__(name)


_NO_CONFIG = (
    "ForTrainer has no config of Hugging Face's, and what was asked of the Trainer reads one. label_smoothing_factor: "
    "leave it out; the Trainer would smooth over labels that it does not shift for models that are not its own. "
    "create_model_card, push_to_hub: use vitruvius doc, and upload the folder of save_model yourself."
)


def _next(labels: Tensor) -> Tensor:
    """Of each place the label after it; of the last none."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


def load_trained(folder: Path | str, architecture: Architecture | None = None) -> Model:
    """The model in a Trainer's checkpoint or `save_model` folder, in eval mode.

    architecture: what it was built from; read from `spec.yaml` there, which the callback `Keeping` writes, when not
    given. Raises RunError when the folder has no spec or no weights, or they do not fit, SpecError when the spec is
    none.
    """
    folder = Path(folder)
    if architecture is None:
        if not (folder / SPEC_FILE).is_file():
            raise RunError(
                f"there is no {SPEC_FILE} beside the weights",
                where=str(folder),
                fix="give the Trainer callbacks=[Keeping()], or pass the architecture",
            )
        architecture = read(folder / SPEC_FILE)
    if not (folder / MODEL_FILE).is_file():
        raise RunError(
            f"there is no {MODEL_FILE}", where=str(folder), fix="name a checkpoint-N folder, or one of save_model"
        )
    model = build(architecture)
    load_weights(model, folder)
    return model.eval()
