"""Prompted classification: the label is the option that the language model finds likeliest after a prompt.

A task is a template over the data's columns and one label word a class. The loss is the cross-entropy over
the options' scores, and an option's score is the mean log-probability of its tokens. If every option is a
single token, the vocabulary's normaliser is the same for all options of an example and cancels in the
softmax over them, so the plain logits serve as scores and one row of input an example is enough. After MeZO
(https://arxiv.org/abs/2305.17333) and, for masked models, LM-BFF (https://arxiv.org/abs/2012.15723).

Shapes: B examples, O options, L tokens, T label positions in a row, R rows (B, or B * O where an option
has more than one token), H hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zoft.errors import ConfigError
from zoft.tasks.data import Columns, label_key

__all__ = ["MASK", "PromptedTask", "option_scores", "prompted_loss"]

MASK = "[MASK]"  # stands in templates for whatever token the model's tokenizer masks with

NO_TOKEN = -1  # pads option ids where options differ in length


@dataclass(frozen=True)
class PromptedTask:
    """A prompt template and what its possible continuations mean.

    ``label_words`` are written without a leading space. One is put before each word, because that is how a
    word in mid-sentence is tokenised; it is left out where the template already ends in whitespace (for
    masked models: where ``[MASK]`` does not follow whitespace).

    Args:
        template: Text with column names in braces; for masked language models it contains ``[MASK]`` once,
            where the label word is to be predicted. Literal braces are doubled.
        label_words: What the model should say, one for each class.
        labels: The data's values of ``label_column``, in the order of ``label_words``; default 0, 1, ...
        label_column: The column that holds the label.

    Raises:
        ConfigError: The template or the words cannot be used; the message says why.
    """

    template: str
    label_words: tuple[str, ...]
    labels: tuple[str | int | bool, ...] | None = None
    label_column: str = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_words", tuple(self.label_words))  # YAML brings lists
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(self.labels))
        words = [word.strip() for word in self.label_words]
        if len(words) < 2:
            raise ConfigError(f"label_words needs at least two words, got {list(self.label_words)}")
        if len(set(words)) < len(words) or "" in words:
            raise ConfigError(f"label_words must differ and must not be empty, got {list(self.label_words)}")
        if len(self.label_keys) != len(words):
            raise ConfigError(
                f"labels must name one value for each of the {len(words)} label words, got {list(self.labels or ())}"
            )
        if len(set(self.label_keys)) < len(words):
            raise ConfigError(f"labels must differ, got {list(self.labels or ())}")
        if self.label_column in self.text_columns:
            raise ConfigError(f"the template shows the answer: it contains the label column {self.label_column!r}")
        if self.template.count(MASK) > 1:
            raise ConfigError(f"the template may contain {MASK} once, got {self.template!r}")

    @property
    def is_masked(self) -> bool:
        """Whether the task is for a masked language model."""
        return MASK in self.template

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the template names, in order of first use."""
        try:
            parsed = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise ConfigError(f"template {self.template!r}: {error}; write literal braces twice") from None
        fields = [(name, spec, conversion) for _, name, spec, conversion in parsed if name is not None]
        for name, spec, conversion in fields:
            if not name or spec or conversion:
                raise ConfigError(f"template {self.template!r}: expected {{column}}, got an empty name or a format")
        if not fields:
            raise ConfigError(f"template {self.template!r} names no column; write for example '{{text}} It was'")
        return tuple(dict.fromkeys(name for name, _, _ in fields))

    @property
    def label_keys(self) -> tuple[str, ...]:
        """The labels as `label_key` writes them."""
        return tuple(map(label_key, range(len(self.label_words)) if self.labels is None else self.labels))

    @property
    def columns(self) -> Columns:
        """What the task reads of a row, for `zoft.tasks.data.load_splits`."""
        return Columns(text=self.text_columns, label=self.label_column, labels=self.label_keys)

    def prompt_parts(self, row: Mapping[str, Any]) -> list[tuple[str | None, str]]:
        """Return the prompt as pieces ``(column, text)``; ``column`` is None for the template's own text."""
        parts: list[tuple[str | None, str]] = []
        for literal, name, _, _ in string.Formatter().parse(self.template):
            parts.append((None, literal))
            if name is not None:
                parts.append((name, str(row[name])))
        return parts

    @property
    def spaced_words(self) -> tuple[str, ...]:
        """The label words with the leading space that the template calls for."""
        before = self.template.partition(MASK)[0] if self.is_masked else self.template
        spaced = before[-1:].isspace() if self.is_masked else not before[-1:].isspace()
        return tuple((" " if spaced else "") + word.strip() for word in self.label_words)


def option_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the options' scores in fp32, [B, O]; their softmax is the model's distribution over the classes.

    Only the label positions reach the output layer, as one contiguous matrix [R * T, H]: a strided slice
    would become a batched product that reads the vocabulary matrix once a row.

    Args:
        model: A causal or masked language model of transformers, bare or wrapped (PEFT,
            DistributedDataParallel).
        batch: What `zoft.tasks.encoding.PromptedCollator` returns; it is not changed.

    Raises:
        ConfigError: The model has no output layer to read the options from.
    """
    base = _language_model(model)
    head: nn.Module | None = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ConfigError(
            f"{type(base).__name__} has no language-model head (get_output_embeddings() is None); "
            "load a causal or masked language model"
        )
    input_ids, positions = batch["input_ids"], batch["option_positions"]
    length, label_positions = input_ids.shape[-1], positions.shape[-1]
    positions = positions.reshape(-1, label_positions)  # [R, T]
    rows = torch.arange(positions.shape[0], device=positions.device).unsqueeze(1)  # [R, 1]

    def keep_label_positions(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[rows, positions].reshape(-1, hidden.shape[-1]), *args[1:])

    inputs = {name: batch[name].reshape(-1, length) for name in ("input_ids", "attention_mask")}
    accepted = _argument_names(type(base).forward)
    if _puts_prompt_in_front(model):
        # PEFT puts its tokens before a row's padding and takes no positions, so padding must not come first.
        inputs, positions = _padded_on_the_right(inputs, positions)
    elif "position_ids" in batch and "position_ids" in accepted:
        inputs["position_ids"] = batch["position_ids"].reshape(-1, length)
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
    option_ids = batch["option_ids"]
    if option_ids.dim() == 2:  # every option is one token
        return logits.gather(1, option_ids).float()
    return _mean_log_probability(logits, option_ids)


def prompted_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy over the options against ``batch["labels"]``, an fp32 scalar."""
    return nn.functional.cross_entropy(option_scores(model, batch), batch["labels"])


def _mean_log_probability(logits: Tensor, option_ids: Tensor) -> Tensor:
    """Average the tokens' log-probabilities: logits [B * O * T, V], option_ids [B, O, T] -> [B, O]."""
    logits = logits.float()
    flat = option_ids.reshape(-1, 1)
    chosen = logits.gather(1, flat.clamp_min(0)).squeeze(1) - logits.logsumexp(1)
    present = option_ids != NO_TOKEN
    return (chosen.view_as(option_ids) * present).sum(-1) / present.sum(-1)


def _language_model(model: nn.Module) -> PreTrainedModel:
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
