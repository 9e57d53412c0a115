"""From `ModelArguments` to a model and a tokenizer, wherever the weights come from."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.quantised import quantization
from zoft.cli.sources import device_map_of, dtype_of, source_of, told_what_to_name
from zoft.errors import ConfigError, ZoftWarning
from zoft.tasks.gguf import load_gguf
from zoft.tasks.scoring import language_model
from zoft.tasks.task import ModelKind, Task
from zoft.tasks.template import MASK

__all__ = ["load_model_and_tokenizer", "model_kind", "planned_kind", "trained_kind"]

_LOADERS: dict[ModelKind, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}

NO_ADAPTER = "Quantised weights cannot be trained, only adapters over them: add --use_peft"


def planned_kind(arguments: ModelArguments, task: Task) -> ModelKind:
    """Return how a model is to be loaded for a task: by the template's mask, else by what the model was trained as.

    Raises:
        AssetError: A packaged model is unknown, missing or altered.
        ConfigError: The arguments name no model that can be loaded.
    """
    return "masked" if MASK in task.template else trained_kind(arguments)


def trained_kind(arguments: ModelArguments) -> ModelKind:
    """Return as what a model was trained.

    Raises:
        AssetError: A packaged model is unknown, missing or altered.
        ConfigError: The arguments name no model that can be loaded.
    """
    name, gguf_file = source_of(arguments)
    if gguf_file is not None:
        return "causal"
    with told_what_to_name(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=arguments.trust_remote_code)
    return _kind_of(config)


def model_kind(model: torch.nn.Module, task: Task) -> ModelKind:
    """Return as what a model was loaded for a task."""
    return "masked" if MASK in task.template else _kind_of(language_model(model).config)


def _kind_of(config: Any) -> ModelKind:
    if config.is_encoder_decoder:
        return "seq2seq"
    trained_as = config.architectures or []
    return "masked" if any(name.endswith("ForMaskedLM") for name in trained_as) else "causal"


def load_model_and_tokenizer(
    arguments: ModelArguments,
    task_kind: ModelKind = "causal",
    *,
    adapter: AdapterArguments | None = None,
    seed: int = 0,
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """Load the model (with an adapter over it if ``use_peft``) and its tokenizer.

    Args:
        arguments: Where from, and in which precision.
        task_kind: As what the model is loaded, see `planned_kind`.
        adapter: Which adapter to put over the model, if any.
        seed: Decides every freshly initialised weight, so that a run can be replayed; the global random
            state is left as it was.

    Raises:
        AssetError: A packaged model is unknown, missing or altered.
        ConfigError: The arguments name no model that can be loaded; the message says what to name instead.
    """
    adapter = adapter or AdapterArguments()
    if arguments.is_quantised and not adapter.use_peft:
        raise ConfigError(NO_ADAPTER)
    name, gguf_file = source_of(arguments)
    dtype = dtype_of(arguments.dtype)
    with torch.random.fork_rng(devices=[]), told_what_to_name(name):
        torch.manual_seed(seed)
        if gguf_file is not None:
            if task_kind == "masked":
                raise ConfigError("GGUF files hold causal models, but the template contains [MASK]")
            if arguments.device_map is not None:
                raise ConfigError("device_map does not go with GGUF files; name another format")
            if arguments.is_quantised:
                raise ConfigError("load_in_8bit and load_in_4bit do not go with GGUF files; name another format")
            model, tokenizer = load_gguf(
                name,
                gguf_file,
                dtype=torch.float32 if dtype == "auto" else dtype,
                attn_implementation=arguments.attn_implementation,
            )
        else:
            model, tokenizer = _from_pretrained(name, arguments, task_kind, dtype)
        if not adapter.use_peft:
            if getattr(model, "is_quantized", False):
                raise ConfigError(f"{name} is a quantised model. {NO_ADAPTER}")
            return model, tokenizer

        from zoft.cli.adapters import with_adapter  # imports PEFT, which a run without adapters need not wait for

        return with_adapter(model, tokenizer, adapter, kind=task_kind), tokenizer


def _from_pretrained(
    name: str, arguments: ModelArguments, task_kind: ModelKind, dtype: torch.dtype | Literal["auto"]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    loader = _LOADERS[task_kind]
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, trust_remote_code=arguments.trust_remote_code
        )
        loaded: Any = loader.from_pretrained(
            name,
            dtype=dtype,
            device_map=device_map_of(arguments.device_map),
            attn_implementation=arguments.attn_implementation,
            trust_remote_code=arguments.trust_remote_code,
            output_loading_info=True,
            **quantization(arguments),
        )
    except ValueError as error:  # an architecture without this head, an unknown attention, remote code not trusted
        raise ConfigError(f"{name!r} could not be loaded as a {task_kind} language model: {error}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        warnings.warn(
            f"{name} does not hold {len(missing)} of the model's weights ({', '.join(missing[:3])}, ...); "
            "they start out random. Prompting relies on a pre-trained language-model head: "
            "use a checkpoint that has one",
            ZoftWarning,
            stacklevel=3,
        )
    return model, tokenizer
