"""How likely a language model finds each option after its prompt.

An option's score is the mean log-probability of its tokens. If every option is a single token, the vocabulary's
normaliser is the same for all options of an example and cancels in the softmax over them, so the plain logits serve as
scores and one row of input an example is enough. After MeZO (https://arxiv.org/abs/2305.17333).

Shapes: B examples, O options, L tokens, T label positions in a row, R rows (B, or one for each option where an option
has more than one token), H hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zoft.errors import ConfigError

__all__ = ["NO_TOKEN", "answer_losses", "label_logits", "label_states", "option_losses", "option_scores"]

NO_TOKEN = -1  # pads option ids where options differ in length, and examples in their number of options


def option_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the options' scores in fp32, [B, O]; their softmax is the model's distribution over the options.

    Only the label positions reach the output layer, as one contiguous matrix [R * T, H]: a strided slice
    would become a batched product that reads the vocabulary matrix once a row.

    Args:
        model: A language model of transformers (causal, masked, or with an encoder and a decoder), bare or wrapped
            (PEFT, DistributedDataParallel).
        batch: What `zoft.tasks.encoding.PromptedCollator` returns; it is not changed.

    Returns:
        Scores; -inf stands where an example has fewer options than others.

    Raises:
        ConfigError: The model has no output layer to read the options from.
    """
    option_ids = batch["option_ids"]
    if option_ids.dim() == 2:  # every option is one token
        logits = label_logits(model, batch, batch["option_positions"])
        return logits.gather(1, option_ids.clamp_min(0)).float().masked_fill(option_ids == NO_TOKEN, -torch.inf)
    present = (option_ids != NO_TOKEN).any(-1)  # [B, O]
    if "option_positions" in batch:
        rows = {name: batch[name][present] for name in ("input_ids", "attention_mask", "position_ids")}
        logits = label_logits(model, rows, batch["option_positions"][present])
    else:
        logits = _decoder_logits(model, batch, present)
    scores = torch.full(present.shape, -torch.inf, device=logits.device)
    # Not in place: a gradient may be asked for.
    return scores.masked_scatter(present, _mean_log_probability(logits, option_ids[present]))


def option_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return each example's cross-entropy over its options against ``batch["labels"]``, in fp32, [B]."""
    return nn.functional.cross_entropy(option_scores(model, batch), batch["labels"], reduction="none")


def answer_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return each example's cross-entropy of the tokens of its only option, a mean over them, in fp32, [B]."""
    return -option_scores(model, batch)[:, 0]


def label_states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return what the output layer reads where an example's option is predicted, in fp32, [B, H].

    Args:
        model: A language model, see `option_scores`.
        batch: A batch whose options are one token each; with an encoder, one option an example.

    Raises:
        ConfigError: The model has no output layer.
    """
    read: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read.append(inputs[0])

    handle = _output_layer(language_model(model)).register_forward_hook(keep)
    try:
        option_scores(model, batch)
    finally:
        handle.remove()
    return read[0].reshape(batch["option_ids"].shape[0], -1).float()


def label_logits(model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Return the logits at the label positions [R, T] of rows, which are counted from their ends: [R * T, V]."""
    base = language_model(model)
    head = _output_layer(base)
    rows = torch.arange(positions.shape[0], device=positions.device).unsqueeze(1)  # [R, 1]

    def keep_label_positions(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[rows, positions].reshape(-1, hidden.shape[-1]), *args[1:])

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    accepted = _argument_names(type(base).forward)
    if _puts_prompt_in_front(model):
        # PEFT puts its tokens before a row's padding and takes no positions, so padding must not come first.
        inputs, positions = _padded_on_the_right(inputs, positions)
    elif "position_ids" in batch and "position_ids" in accepted:
        inputs["position_ids"] = batch["position_ids"]
    options = {"use_cache": False} if "use_cache" in accepted else {}

    handle = head.register_forward_pre_hook(keep_label_positions)
    try:
        logits: Tensor = model(**inputs, **options).logits
    finally:
        handle.remove()
    if logits.dim() != 2:
        raise ConfigError(
            f"{type(base).__name__} computes its logits without calling its output layer (got shape "
            f"{tuple(logits.shape)}, expected two dimensions), so the label positions cannot be picked out"
        )
    return logits


def _decoder_logits(model: nn.Module, batch: Mapping[str, Tensor], present: Tensor) -> Tensor:
    """Return the logits of a decoder that is fed each option after the encoded prompt: [R * T, V]."""
    base = language_model(model)
    _output_layer(base)
    start = base.config.decoder_start_token_id
    if start is None:
        raise ConfigError(
            f"{type(base).__name__}'s config has no decoder_start_token_id, which its decoder starts from"
        )
    options = batch["option_ids"][present]  # [R, T]
    fed = options.roll(1, dims=1).clamp_min(0)
    fed[:, 0] = start
    of_row = present.nonzero()[:, 0]
    logits: Tensor = model(
        input_ids=batch["input_ids"][of_row],
        attention_mask=batch["attention_mask"][of_row],
        decoder_input_ids=fed,
        use_cache=False,
    ).logits
    return logits.reshape(-1, logits.shape[-1])


def _mean_log_probability(logits: Tensor, option_ids: Tensor) -> Tensor:
    """Average the tokens' log-probabilities: logits [R * T, V], option_ids [R, T] -> [R]."""
    logits = logits.float()
    flat = option_ids.reshape(-1, 1)
    chosen = logits.gather(1, flat.clamp_min(0)).squeeze(1) - logits.logsumexp(1)
    present = option_ids != NO_TOKEN
    return (chosen.view_as(option_ids) * present).sum(-1) / present.sum(-1)


def _output_layer(base: PreTrainedModel) -> nn.Module:
    head: nn.Module | None = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ConfigError(
            f"{type(base).__name__} has no language-model head (get_output_embeddings() is None); "
            "load a causal or masked language model"
        )
    return head


def language_model(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers inside what may be wrapped around it."""
    for module in model.modules():  # the first one, or the second or third inside a wrapper
        if isinstance(module, PreTrainedModel):
            return module
    raise ConfigError(f"expected a language model of transformers, got {type(model).__name__}")


def _puts_prompt_in_front(model: nn.Module) -> bool:
    """Whether a PEFT adapter around the language model embeds virtual tokens before each row's own."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return False
        config = getattr(module, "active_peft_config", None)
        if config is not None:
            return bool(config.is_prompt_learning and config.peft_type != "PREFIX_TUNING")
    return False


def _padded_on_the_right(inputs: dict[str, Tensor], positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Roll the padding in front of each row to its end: inputs [R, L], positions [R, T] from the end."""
    mask = inputs["attention_mask"]
    shift = mask.argmax(1, keepdim=True)  # [R, 1], the place of the first real token
    where = (torch.arange(mask.shape[1], device=mask.device) + shift) % mask.shape[1]  # [R, L]
    return {name: tensor.gather(1, where) for name, tensor in inputs.items()}, positions - shift


@cache
def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
