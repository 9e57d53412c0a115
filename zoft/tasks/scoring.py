"""How likely a language model finds each option after its prompt.

An option's score is the mean log-probability of its tokens. If every option is a single token, the vocabulary's
normaliser is the same for all options of an example and cancels in the softmax over them, so the plain logits serve as
scores and one row of input an example is enough. After MeZO (https://arxiv.org/abs/2305.17333).

Shapes: B examples, O options, L tokens, T label positions in a row, R rows (B, or one for each option where an option
has more than one token and the model cannot share prompts), H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoft.errors import ConfigError
from zoft.tasks.label_logits import Use, language_model, of_logits, output_layer
from zoft.tasks.label_values import label_values
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.shared_prompts import shared_prompts

__all__ = ["answer_losses", "label_states", "language_model", "option_losses", "option_scores"]


def option_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the options' scores in fp32, [B, O]; their softmax is the model's distribution over the options.

    Only the label positions reach the output layer, and of options of several tokens only some at a time.

    Args:
        model: A language model of transformers (causal, masked, or with an encoder and a decoder), bare or wrapped
            (PEFT, DistributedDataParallel).
        batch: What `zoft.tasks.prompt_batches.PromptedCollator` returns; it is not changed.

    Returns:
        Scores; -inf stands where an example has fewer options than others.

    Raises:
        ConfigError: The model has no output layer to read the options from.
    """
    option_ids = batch["option_ids"]
    if option_ids.dim() == 2:  # every option is one token

        def chosen(logits: Tensor, places: slice) -> Tensor:
            return logits.gather(1, option_ids.clamp_min(0)).unsqueeze(1)

        logits = label_values(model, batch, batch["option_positions"], chosen).squeeze(1)
        return logits.float().masked_fill(option_ids == NO_TOKEN, -torch.inf)
    present = (option_ids != NO_TOKEN).any(-1)  # [B, O]
    tokens = option_ids[present]  # [R, T]
    if "option_positions" not in batch:
        found = _decoder_values(model, batch, present, _likely(tokens))
    elif (shared := shared_prompts(model, batch)) is not None:
        # All options of an example are in one row.
        likely = _likely(option_ids.flatten(1))
        found = label_values(model, shared, shared["option_positions"], likely).view_as(option_ids)[present]
    else:
        rows = {name: batch[name][present] for name in ("input_ids", "attention_mask", "position_ids")}
        found = label_values(model, rows, batch["option_positions"][present], _likely(tokens))
    used = tokens != NO_TOKEN
    scores = torch.full(present.shape, -torch.inf, device=found.device)
    # Not in place: a gradient may be asked for.
    return scores.masked_scatter(present, (found * used).sum(-1) / used.sum(-1))


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

    handle = output_layer(language_model(model)).register_forward_hook(keep)
    try:
        option_scores(model, batch)
    finally:
        handle.remove()
    return read[0].reshape(batch["option_ids"].shape[0], -1).float()


def _decoder_values(model: nn.Module, batch: Mapping[str, Tensor], present: Tensor, use: Use) -> Tensor:
    """Apply a function to the logits of a decoder that is fed each option after the encoded prompt."""
    base = language_model(model)
    start = base.config.decoder_start_token_id
    if start is None:
        raise ConfigError(
            f"{type(base).__name__}'s config has no decoder_start_token_id, which its decoder starts from"
        )
    options = batch["option_ids"][present]  # [R, T]
    fed = options.roll(1, dims=1).clamp_min(0)
    fed[:, 0] = start
    of_row = present.nonzero()[:, 0]
    inputs = {
        "input_ids": batch["input_ids"][of_row],
        "attention_mask": batch["attention_mask"][of_row],
        "decoder_input_ids": fed,
        "use_cache": False,
    }
    everywhere = torch.arange(options.shape[1], device=options.device).expand_as(options)
    return of_logits(model, inputs, everywhere, use)


def _likely(tokens: Tensor) -> Use:
    """Return what takes the log-probabilities of these tokens, one for each place [R, T]."""
    return lambda logits, places: _log_probabilities(logits, tokens[:, places])


def _log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of tokens: logits [R * t, V], ids [R, t] -> [R, t]; anything where there is none."""
    logits = logits.float()
    chosen = logits.gather(1, ids.reshape(-1, 1).clamp_min(0)).squeeze(1) - logits.logsumexp(1)
    return chosen.view_as(ids)
