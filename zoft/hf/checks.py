"""What forward-only training cannot do is refused when the Trainer is made."""

from __future__ import annotations

import math
from typing import Any

from accelerate.utils import DynamoBackend, is_compiled_module

from zoft.errors import ConfigError
from zoft.estimators import num_shares
from zoft.method import build_method
from zoft.types import ZOConfig


def refuse(trainer: Any, zo: ZOConfig) -> None:
    """Refuse what cannot be meant.

    Args:
        trainer: A ``transformers.Trainer`` that has just been made.
        zo: The zeroth-order configuration.

    Raises:
        ConfigError: If the Trainer was asked for something that forward-only training cannot do.
    """
    args = trainer.args
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise ConfigError(
            "an optimizer was given (optimizers=(...) or optimizer_cls_and_kwargs=...); zeroth-order training makes "
            "its own optimizer. Leave it out: learning_rate, weight_decay and ZOConfig say all there is to say."
        )
    if trainer.lr_scheduler is not None:
        raise ConfigError(
            "optimizers=(None, scheduler) was given; that scheduler drives an optimizer that does not train. Use "
            "lr_scheduler_type, or override create_scheduler."
        )
    if args.fp16:
        raise ConfigError(
            "fp16=True scales losses for a backward pass that zeroth-order training does not have. Load the model in "
            "float16 instead (dtype: float16), or use bf16=True."
        )
    if trainer.is_deepspeed_enabled:
        raise ConfigError(
            "deepspeed was asked for; it shards gradients and optimizer state, of which zeroth-order training has "
            "none, and keeps weights where their perturbation cannot reach them. Leave it out."
        )
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and plugin.fsdp_version != 2:
        raise ConfigError(
            "FSDP1 flattens weights together, so that their elements can no longer be told apart. Use FSDP2: "
            "fsdp_config={'version': 2}."
        )
    if plugin is not None and args.save_strategy != "no" and not args.save_only_model:
        raise ConfigError(
            "with FSDP, checkpoints would hold an optimizer's shards, which there are not. Set save_only_model=True or "
            "save_strategy='no': a run resumes from its replay log."
        )
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process was started where there are {args.n_gpu} GPUs. Start one for each (accelerate launch "
            f"--num_processes {args.n_gpu} ...), or set CUDA_VISIBLE_DEVICES to one GPU."
        )
    if not math.isfinite(args.learning_rate) or args.learning_rate < 0:
        raise ConfigError(f"learning_rate must be a finite number >= 0, got {args.learning_rate}.")
    if trainer.neftune_noise_alpha is not None:
        raise ConfigError(
            f"neftune_noise_alpha={trainer.neftune_noise_alpha} adds noise to the embeddings in training mode only; "
            "zeroth-order losses are taken in evaluation mode, where both signs see the same. Leave it out."
        )
    if zo.placement in ("stream", "batched") and is_compiled(trainer):
        raise ConfigError(
            f"placement={zo.placement!r} puts itself between the modules of every forward, for which a compiled model "
            "would be compiled again and again. Use placement='snapshot' or 'auto', or leave torch_compile out."
        )
    shares = num_shares(build_method(zo).estimator.points(0))
    if shares % zo.query_parallel_size and any(cls.__module__.startswith("trl.") for cls in type(trainer).__mro__):
        raise ConfigError(
            f"query_parallel_size={zo.query_parallel_size} does not divide this step of {shares} directions (the clean "
            "point counts as one), and TRL's losses wait for all processes at every evaluation. Change num_queries, "
            "or use query_parallel_size=1."
        )


def is_compiled(trainer: Any) -> bool:
    """Tell whether the model is compiled, or will be when training starts."""
    return trainer.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO or any(
        is_compiled_module(module) or module._compiled_call_impl is not None for module in trainer.model.modules()
    )
