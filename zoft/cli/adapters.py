"""From `AdapterArguments` to an adapter (PEFT) over a model: how it starts, is saved, and is merged.

LoRA, DoRA and IA3 start as the identity. Virtual tokens cannot, and a random prefix pushes the model so far off
that forward-only steps do not find back (Malladi et al. 2023, arXiv 2305.17333, start prefixes from the
activations of real tokens). So they start from a text: a prompt from its embeddings, a prefix from its keys and
values.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
    load_peft_weights,
    set_peft_model_state_dict,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zoft.cli.arguments.adapter import ADAPTER_OPTIONS, AdapterArguments
from zoft.errors import ConfigError, ZoftWarning, did_you_mean
from zoft.tasks.task import ModelKind

__all__ = ["load_adapter", "merge", "save_adapter", "with_adapter"]

AdaptedKind: TypeAlias = ModelKind | Literal["classifier"]
"""What kind of model an adapter is put over."""

# PEFT has no task of masked language modelling.
_PEFT_TASKS: dict[AdaptedKind, str | None] = {
    "causal": "CAUSAL_LM",
    "masked": None,
    "seq2seq": "SEQ_2_SEQ_LM",
    "classifier": None,  # its task of classifying is one of texts
}


def with_adapter(
    model: PreTrainedModel,
    tokenizer: Any,
    arguments: AdapterArguments,
    *,
    kind: AdaptedKind = "causal",
) -> PeftModel:
    """Freeze a model and put an adapter over it.

    Args:
        model: The base, in evaluation mode; PEFT changes it in place.
        tokenizer: The model's tokenizer, if virtual tokens are to start from text.
        arguments: Which kind of adapter, and its options.
        kind: What kind of model it is.

    Raises:
        ConfigError: The options do not fit the model; the message says what PEFT found wrong.
    """
    if kind == "seq2seq" and arguments.peft_type in ("prefix_tuning", "prompt_tuning"):
        raise ConfigError(
            f"{arguments.peft_type} does not go with models that have an encoder; use peft_type lora or ia3"
        )
    if kind == "masked" and arguments.peft_type == "prefix_tuning":
        raise ConfigError(
            "prefix_tuning needs a model that keeps keys and values, which masked models do not; use peft_type "
            "prompt_tuning, lora or ia3"
        )
    _check_names(model, arguments)
    if arguments.lora_dropout:
        warnings.warn(
            f"lora_dropout={arguments.lora_dropout} has no effect: an estimate needs the same model at both signs, so "
            "it is taken without dropout. Leave it out.",
            ZoftWarning,
            stacklevel=2,
        )
    try:
        adapted = get_peft_model(model, _config(arguments, _PEFT_TASKS[kind]))
    except (ValueError, TypeError) as error:  # no such module, no default for the architecture, not over these weights
        options = ", ".join(f"{name}={getattr(arguments, name)!r}" for name in ADAPTER_OPTIONS[arguments.peft_type])
        raise ConfigError(
            f"no {arguments.peft_type} adapter fits {type(model).__name__} with {options}: {error}"
        ) from error
    if arguments.peft_type in ("prefix_tuning", "prompt_tuning"):
        _start_from_text(adapted, tokenizer, arguments.virtual_tokens_init_text)
    return adapted


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter's weights, in PEFT's own format."""
    model.save_pretrained(str(folder), save_embedding_layers=False)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Give the adapter the weights that a run, or a start, has saved."""
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))


def merge(model: torch.nn.Module) -> PreTrainedModel:
    """Return the plain model that computes what base and adapter compute, up to rounding.

    Args:
        model: An adapted model; it is used up.

    Raises:
        ConfigError: There is no adapter, or one that no plain weights can stand for.
    """
    if not isinstance(model, PeftModel):
        raise ConfigError("merge_adapter: this run trained no adapter (use_peft is false), so there is none to merge")
    config = model.active_peft_config
    if config.is_prompt_learning:
        raise ConfigError(
            f"merge_adapter: {config.peft_type.value.lower()} adds virtual tokens, which cannot become weights; leave "
            "merge_adapter out and load the adapter with PeftModel.from_pretrained"
        )
    base: Any = model.get_base_model()
    if getattr(base, "is_quantized", False):
        raise ConfigError(
            "merge_adapter: merging into a quantised base would round the adapter away. Save the adapter, load the "
            "base unquantised, put the adapter over it with PeftModel.from_pretrained, and merge there"
        )
    return model.merge_and_unload()  # type: ignore[no-any-return]


def _check_names(model: PreTrainedModel, arguments: AdapterArguments) -> None:
    """Refuse names that no module has: PEFT leaves out silently what it does not find, unless it finds nothing."""
    modules = [name for name, _ in model.named_modules()]
    for option in ("lora_target_modules", "lora_modules_to_save", "ia3_target_modules", "ia3_feedforward_modules"):
        for wanted in getattr(arguments, option) or ():
            if wanted != "all-linear" and not any(f".{name}".endswith(f".{wanted}") for name in modules):
                known = {name.rpartition(".")[2] for name in modules}
                raise ConfigError(
                    f"{option}: no module of {type(model).__name__} is called {wanted!r}.{did_you_mean(wanted, known)}"
                )


def _config(arguments: AdapterArguments, task: str | None) -> PeftConfig:
    if arguments.peft_type == "ia3":
        return IA3Config(
            target_modules=arguments.ia3_target_modules,
            feedforward_modules=arguments.ia3_feedforward_modules,
            task_type=task,
        )
    if arguments.peft_type == "prefix_tuning":
        return PrefixTuningConfig(num_virtual_tokens=arguments.num_virtual_tokens, task_type=task)
    if arguments.peft_type == "prompt_tuning":
        # Virtual tokens need some task, and this one adds nothing.
        return PromptTuningConfig(
            num_virtual_tokens=arguments.num_virtual_tokens, task_type=task or "FEATURE_EXTRACTION"
        )
    targets: Any = arguments.lora_target_modules
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        modules_to_save=arguments.lora_modules_to_save,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
        task_type=task,
    )


@torch.no_grad()
def _start_from_text(model: PeftModel, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Make the virtual tokens what the model makes of ``text``, repeated or cut to their number."""
    ids: list[int] = tokenizer(text)["input_ids"]
    if not ids:
        raise ConfigError("virtual_tokens_init_text: expected some text, got nothing that the tokenizer keeps")
    count: int = model.active_peft_config.num_virtual_tokens
    tokens = torch.tensor([(ids * count)[:count]], device=model.device)  # [1, count]
    if model.active_peft_config.peft_type == "PREFIX_TUNING":
        seen = model.get_base_model()(input_ids=tokens, use_cache=True).past_key_values
        initialize_kv_prefix_from_past_key_values(model, past_key_values=seen)
    else:
        encoder: Any = model.prompt_encoder[model.active_adapter]
        embed: Any = model.word_embeddings
        encoder.embedding.weight.copy_(embed(tokens)[0])
