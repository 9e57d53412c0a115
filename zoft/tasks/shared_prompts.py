"""Options of several tokens after one prompt, in one row of input, so that the prompt is read only once.

A row holds the prompt, and behind it the tokens of each option. A mask lets an option's tokens see the prompt and their
own option, and for each option positions count on from the prompt's end. A causal transformer then computes for every
token what it computes in a row of the prompt and that option alone, up to rounding. Models that count positions
otherwise, read their inputs in order (state spaces) or do not take such a mask do not; so a model is asked, once,
before it is trained.

Shapes: B examples, O options, L tokens of a prompt and an option, P of a prompt, T of an option, S = P + O (T - 1).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zoft.tasks.evaluation_mode import evaluation_mode
from zoft.tasks.label_logits import TOLERANCE, language_model
from zoft.tasks.label_values import argument_names, label_values, puts_prompt_in_front
from zoft.tasks.option_tokens import NO_TOKEN
from zoft.tasks.prompt_batches import Example, PromptedCollator

__all__ = ["learn_whether_prompts_are_shared", "share_prompts", "shared_prompts"]

_WINDOWS = ("sliding_window", "attention_window", "window_size", "attention_chunk_size")
"""What configurations call the number of tokens beyond which a layer does not look back, counted in the input."""

_longest: weakref.WeakKeyDictionary[PreTrainedModel, float] = weakref.WeakKeyDictionary()
"""The longest input in which a model may share a prompt."""


def learn_whether_prompts_are_shared(model: nn.Module) -> bool:
    """Ask a model, by three forwards of a few tokens, whether options can share their prompt; it is remembered.

    Ask before training: a step's evaluations must not differ in how they are made, nor a resumed run from the first.

    Args:
        model: A causal language model of transformers, bare or wrapped; other models share nothing.
    """
    base = language_model(model)
    able = (
        not base.config.is_encoder_decoder
        and not puts_prompt_in_front(model)
        and "position_ids" in argument_names(type(base).forward)
        and _agrees(model, base)
    )
    windows = [getattr(base.config.get_text_config(), name, None) for name in _WINDOWS]
    _longest[base] = min([window for window in windows if window], default=float("inf")) if able else 0
    return able


def shared_prompts(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return a batch with all options of an example in one row, where the model can read that, and has less to read.

    Args:
        model: The model, whether it was asked or not.
        batch: See `share_prompts`.

    Returns:
        See `share_prompts`, with the mask as the model takes it; None: each option needs a row of its own.
    """
    base = language_model(model)
    longest = _longest.get(base, 0)
    rows = int((batch["option_ids"] != NO_TOKEN).any(-1).sum())
    if not longest or rows == len(batch["option_ids"]):
        return None
    shared = share_prompts(batch)
    examples, length = shared["input_ids"].shape
    if length > longest or examples * length >= rows * batch["input_ids"].shape[2]:
        return None
    return {**shared, "attention_mask": _as_taken(base, shared["attention_mask"])}


def share_prompts(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put all options of an example into one row.

    Args:
        batch: ``input_ids``, ``attention_mask``, ``position_ids`` [B, O, L], ``option_ids`` and ``option_positions``
            [B, O, T], as `zoft.tasks.prompt_batches.PromptedCollator` makes them.

    Returns:
        ``input_ids`` and ``position_ids`` [B, S], ``attention_mask`` [B, 1, S, S] (True: is seen) and
        ``option_positions`` [B, O T], where each option's tokens are predicted.
    """
    option_ids = batch["option_ids"]
    examples, options, longest = option_ids.shape
    device = option_ids.device
    # The first token of the first option is predicted at the prompt's end.
    end = batch["input_ids"].shape[2] + batch["option_positions"][:, 0, 0]  # [B]
    length = batch["position_ids"][:, 0].gather(1, end.unsqueeze(1)).squeeze(1) + 1  # [B]
    widest = int(length.max())
    place = end.unsqueeze(1) + torch.arange(1 - widest, 1, device=device)  # [B, P]
    prompt_is_real = torch.arange(widest, 0, -1, device=device) <= length.unsqueeze(1)  # [B, P]
    prompts = batch["input_ids"][:, 0].gather(1, place.clamp_min(0))
    # An option's last token is predicted, and predicts nothing.
    following = option_ids[..., :-1].reshape(examples, -1).clamp_min(0)  # [B, O (T - 1)]
    following_is_real = (option_ids[..., 1:] != NO_TOKEN).reshape(examples, -1)
    option_of = torch.arange(options, device=device).repeat_interleave(longest - 1)
    step = torch.arange(longest - 1, device=device).repeat(options)

    is_real = torch.cat([prompt_is_real, following_is_real], dim=1)  # [B, S]
    block = torch.cat([torch.full((widest,), -1, device=device), option_of])  # [S]
    earlier = torch.ones(len(block), len(block), dtype=torch.bool, device=device).tril()
    may_see = earlier & ((block == -1) | (block == block.unsqueeze(1)))  # [S, S]
    itself = torch.eye(len(block), dtype=torch.bool, device=device)  # padding that saw nothing would be NaN
    ends = torch.full((options, 1), widest - 1, device=device)
    behind = widest + torch.arange(options * (longest - 1), device=device).view(options, -1)
    return {
        "input_ids": torch.cat([prompts, following], dim=1),
        "position_ids": torch.cat([(prompt_is_real.cumsum(1) - 1).clamp_min(0), length.unsqueeze(1) + step], dim=1),
        "attention_mask": ((may_see & is_real.unsqueeze(1)) | itself).unsqueeze(1),
        "option_positions": torch.cat([ends, behind], dim=1).reshape(1, -1).expand(examples, -1),
    }


def _as_taken(base: PreTrainedModel, may_see: Tensor) -> Tensor:
    """Return a mask as the model's attention takes it: torch's fused one a boolean, others what is added to scores."""
    if base.config._attn_implementation == "sdpa":
        return may_see
    mask = torch.zeros(may_see.shape, dtype=base.dtype, device=may_see.device)
    return mask.masked_fill(~may_see, torch.finfo(base.dtype).min)


@torch.no_grad()
def _agrees(model: nn.Module, base: PreTrainedModel) -> bool:
    """Whether options that share a prompt have the logits of options in rows of their own."""
    vocabulary = base.config.get_text_config().vocab_size

    def tokens(first: int, count: int) -> list[int]:
        return [(first + 7 * place) % vocabulary for place in range(count)]

    examples = [
        Example(
            input_ids=tokens(5 + length, length),
            position=-1,
            options=(tuple(tokens(3 + length, 3)), tuple(tokens(4 + length, 2)), tuple(tokens(6 + length, 4))),
            label=0,
            row=0,
        )
        for length in (9, 4)
    ]
    batch = {name: tensor.to(base.device) for name, tensor in PromptedCollator(0)(examples).items()}
    used = batch["option_ids"] != NO_TOKEN
    rows = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask", "position_ids")}
    shared = share_prompts(batch)
    seeing_all = {**shared, "attention_mask": torch.ones_like(shared["attention_mask"]).tril()}
    try:
        with evaluation_mode(model):
            alone = _logits(model, rows, batch["option_positions"].flatten(0, 1)).view(*used.shape, -1)[used]
            found, wrong = (
                _logits(
                    model,
                    {**some, "attention_mask": _as_taken(base, some["attention_mask"])},
                    shared["option_positions"],
                ).view(*used.shape, -1)[used]
                for some in (shared, seeing_all)
            )
    except Exception:  # a model that does not take such a mask may raise anything
        return False
    error, scale = (found - alone).abs().max(), alone.abs().max()
    # With a mask that is wrong on purpose there must be a difference, or nothing was shown.
    return bool(error <= TOLERANCE.get(base.dtype, 1e-2) * scale and 3 * error < (wrong - alone).abs().max())


def _logits(model: nn.Module, rows: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Return the logits at positions [R, T] of rows, [R, T, V]."""
    count = len(positions)
    return label_values(model, rows, positions, lambda logits, _: logits.float().view(count, -1, logits.shape[-1]))
