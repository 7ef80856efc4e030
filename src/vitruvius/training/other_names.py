"""What other trainers call our settings: nanoGPT, nanochat, litgpt, torchtitan, Axolotl, Hugging Face's Trainer."""

from __future__ import annotations

_CALLED = {
    "lr": "learning_rate max_lr",
    "steps": "max_steps max_iters num_iterations train_steps training_steps total_steps",
    "batch": "batch_size global_batch_size train_batch_size per_device_train_batch_size",
    "context": "seq_len seq_length sequence_len max_seq_len max_seq_length block_size",
    "clip": "grad_clip max_norm max_grad_norm gradient_clipping clip_grad_norm",
    "dtype": "precision mixed_precision bf16 fp16 mixed_precision_param",
    "warmup": "warmup_steps warmup_iters lr_warmup_steps",
    "schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule",
    "accumulate": "gradient_accumulation_steps grad_accum grad_accum_steps accumulate_grad_batches",
    "checkpointing": "gradient_checkpointing activation_checkpointing activation_checkpoint",
    "checkpoint_every": "save_steps save_interval save_every checkpoint_interval",
    "keep": "save_total_limit keep_latest_k",
    "eval_every": "eval_steps eval_interval val_interval val_every",
    "eval_batches": "eval_iters eval_max_batches",
    "packing": "sample_packing",
    "compile": "torch_compile",
    "ema": "ema_decay",
    "optimizer": "optim optimizer_type",
    "mix": "data_mix mixture sampling_weights",
    "threads": "num_threads",
    "loader.workers": "num_workers dataloader_num_workers",
    "samples.every": "sample_every",
    "watch.sinks": "report_to logger use_wandb wandb",
}
_OURS = {theirs: ours for ours, names in _CALLED.items() for theirs in names.split()}
_OTHERWISE = {
    "epochs": "a run is counted in `steps`; --dry-run says how often it sees the data",
    "micro_batch_size": "`batch` is the whole batch, and `accumulate` the pieces that it is computed in",
    "beta1": "write both: betas: [0.9, 0.95]",
    "beta2": "write both: betas: [0.9, 0.95]",
    "tensor_parallel": "it is a part of `engine`: {kind: fsdp2, tensor_parallel: 2}",
}
_OTHERWISE |= dict.fromkeys(("num_epochs", "max_epochs", "num_train_epochs"), _OTHERWISE["epochs"])
_OTHERWISE |= dict.fromkeys(("device_batch_size", "local_batch_size"), _OTHERWISE["micro_batch_size"])
_OTHERWISE |= dict.fromkeys(("adam_beta1", "adam_beta2"), _OTHERWISE["beta1"])


def called_here(name: str) -> str:
    """The way from a setting of another trainer to ours; the empty string for a name that none of them has."""
    ours = _OURS.get(name.lower())
    return f"it is called {ours!r} here" if ours is not None else _OTHERWISE.get(name.lower(), "")
