"""Calibrated scores: how much likelier a row makes an option than the task alone does.

Surface form competition (Holtzman et al. 2021, arXiv 2104.08315, domain-conditional PMI, as MeZO uses it): an option's
score is log P(option | prompt) - log P(option | the task's prompt without the row), sums over the option's tokens.
Behind demonstrations both prompts have the same ones, as in contextual calibration (Zhao et al. 2021, arXiv
2102.09690).
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoft.errors import ConfigError
from zoft.evaluation.options import scores_of_options
from zoft.tasks.encoding import EncodedPrompts, PromptEncoder
from zoft.tasks.prompt_batches import Example
from zoft.tasks.rows import Columns
from zoft.tasks.task import Task, TrainsOn
from zoft.tasks.template import Parts, fill_parts, named_columns

__all__ = ["calibrated", "domain_encoder", "domain_scores", "without_columns"]


def without_columns(template: str) -> str:
    """Return a template with its columns left out, and no space before it."""
    literals = (literal for literal, _, _, _ in string.Formatter().parse(template))
    return "".join(literals).lstrip().replace("{", "{{").replace("}", "}}")


def domain_encoder(encoder: PromptEncoder, sfc_template: str | None = None) -> PromptEncoder:
    """Return an encoder of prompts that say of the task alone, with the same options.

    Args:
        encoder: The task, made ready for a model.
        sfc_template: These prompts' template, which may name columns (COPA's conjunction is one) and ends as the
            task's own does; default: the task's own, `without_columns`.

    Raises:
        ConfigError: The template cannot be used.
    """
    template = without_columns(encoder.task.template) if sfc_template is None else sfc_template
    return PromptEncoder(_Domain(encoder.task, template), encoder.tokenizer, encoder.limit, kind=encoder.kind)


def domain_scores(
    model: nn.Module,
    dataset: EncodedPrompts,
    encoder: PromptEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Return the scores of each example's options, as `scores_of_options`; equal prompts are read once.

    Raises:
        ConfigError: A prompt is empty, and no model can say what follows nothing.
    """
    if not all(example["input_ids"] for example in dataset.examples):
        raise ConfigError(
            "without the row, nothing is left of the prompt, and there is nothing to calibrate by; give sfc_template, "
            "for example --sfc_template 'Answer:'"
        )
    keys = [(tuple(example["input_ids"]), example["options"]) for example in dataset.examples]
    places = {key: place for place, key in reversed(list(enumerate(keys)))}
    unique = replace(dataset, examples=[dataset.examples[place] for place in places.values()])
    found = scores_of_options(model, unique, encoder, batch_size=batch_size, device=device)
    of_key = dict(zip(places, found, strict=True))
    return [of_key[key] for key in keys]


def calibrated(
    scores: Sequence[Tensor], examples: Sequence[Example], domain: Sequence[Tensor], domain_examples: Sequence[Example]
) -> list[Tensor]:
    """Return the differences of the options' log-probabilities, [O] each.

    Args:
        scores: Of each example, its options' mean log-probabilities a token, [O] or longer.
        examples: The examples.
        domain: The same, behind the prompts without the rows.
        domain_examples: Those prompts.
    """
    return [
        _total(of_row, example) - _total(of_domain, domain_example)
        for of_row, example, of_domain, domain_example in zip(scores, examples, domain, domain_examples, strict=True)
    ]


def _total(scores: Tensor, example: Example) -> Tensor:
    """Return sums over tokens in place of means. Of one token, plain logits do: their normaliser is all options'."""
    lengths = torch.tensor([len(option) for option in example["options"]])
    return scores[: len(lengths)] * lengths


@dataclass(frozen=True)
class _Domain:
    """A task whose prompts leave out the row; see `zoft.tasks.task.Task`."""

    task: Task
    template: str

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def trains_on(self) -> TrainsOn:
        return self.task.trains_on

    @property
    def columns(self) -> Columns:
        return self.task.columns

    @property
    def label_words(self) -> tuple[str, ...] | None:
        return self.task.label_words

    @property
    def text_columns(self) -> tuple[str, ...]:
        return named_columns(self.template, "sfc_template")

    def prompt_parts(self, row: Mapping[str, Any]) -> Parts:
        if absent := [name for name in self.text_columns if name not in row]:
            raise ConfigError(f"sfc_template: there is no column {absent[0]!r}; found: {', '.join(map(repr, row))}")
        return fill_parts(self.template, row)

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return self.task.options(row)

    def right(self, row: Mapping[str, Any]) -> tuple[int, ...]:
        return self.task.right(row)
