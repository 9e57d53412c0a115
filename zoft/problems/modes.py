"""Ways to measure a model on a problem without training it: each a function in :data:`MODES`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoft.errors import ConfigError
from zoft.evaluation.calibration import calibrated, domain_encoder, domain_scores
from zoft.evaluation.demonstrations import behind_demonstrations, context_window, draw, encode_in_context
from zoft.evaluation.options import evaluation_of_scores, scores_of_options
from zoft.evaluation.predictions import Evaluation
from zoft.evaluation.probing import evaluate_probe, probed_words
from zoft.problems.problem import Problem
from zoft.problems.prompted import PromptedProblem
from zoft.tasks.answers import AnswerTask
from zoft.tasks.encoding import EncodedPrompts

__all__ = ["MODES", "Measured", "Settings", "check_mode", "measure"]


@dataclass(frozen=True)
class Settings:
    """How the modes measure.

    Attributes:
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model is.
        num_demonstrations: How many solved training rows stand before each prompt in context.
        context_length: How long these prompts may be, in tokens, virtual ones not counted; default: the model's window.
        sfc: Measure calibrated scores besides plain ones.
        sfc_template: What they are calibrated by; see `zoft.evaluation.calibration.domain_encoder`.
        seed: Decides which demonstrations are drawn.
    """

    batch_size: int = 32
    device: torch.device | str | None = None
    num_demonstrations: int = 32
    context_length: int | None = None
    sfc: bool = False
    sfc_template: str | None = None
    seed: int = 0

    @property
    def batches(self) -> dict[str, Any]:
        """How a model is run."""
        return {"batch_size": self.batch_size, "device": self.device}


@dataclass(frozen=True)
class Measured:
    """What came of a mode.

    Attributes:
        mode: Its name; calibrated scores have ``+sfc`` in it.
        evaluation: The scores and the predictions.
        facts: What else there is to tell, as plain JSON types.
    """

    mode: str
    evaluation: Evaluation
    facts: dict[str, Any]


def measure(mode: str, problem: Problem, model: nn.Module, settings: Settings) -> list[Measured]:
    """Measure a model in one of the :data:`MODES`.

    Raises:
        ConfigError: The problem cannot be measured in this way; see also `check_mode`.
    """
    check_mode(mode, problem, settings)
    started = time.perf_counter()
    found = MODES[mode](problem, model, settings)
    seconds = {"seconds": round(time.perf_counter() - started, 1)}
    return [Measured(one.mode, one.evaluation, {**one.facts, **seconds}) for one in found]


def check_mode(mode: str, problem: Problem, settings: Settings) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        ConfigError: The message says why.
    """
    if isinstance(problem, PromptedProblem):
        task = problem.encoder.task
        if mode == "linear_probe":
            probed_words(task)
        if settings.sfc and isinstance(task, AnswerTask):
            raise ConfigError("sfc calibrates the scores of options, and this task is answered in words; leave it out")
    elif mode != "zero_shot" or settings.sfc:
        what = mode if mode != "zero_shot" else "sfc"
        raise ConfigError(f"{what} needs a language model that is prompted, and this task takes another; leave it out")


def _zero_shot(problem: Problem, model: nn.Module, settings: Settings) -> list[Measured]:
    if not (settings.sfc and isinstance(problem, PromptedProblem)):
        return [Measured("zero_shot", problem.evaluate(model, problem.evaluation, **settings.batches), {})]
    rows = problem.evaluation.rows
    domain = domain_encoder(problem.encoder, settings.sfc_template).encode(rows)
    return _plain_and_calibrated("zero_shot", problem, model, problem.evaluation, domain, settings)


def _in_context(problem: Problem, model: nn.Module, settings: Settings) -> list[Measured]:
    assert isinstance(problem, PromptedProblem)
    encoder, rows = problem.encoder, problem.evaluation.rows
    length = settings.context_length or context_window(model, encoder)
    if length is None:
        raise ConfigError("neither the model nor its tokenizer says how much it can read; give context_length")
    drawn = draw(problem.train.rows, encoder.task.columns, settings.num_demonstrations, settings.seed)
    context = encode_in_context(encoder, rows, drawn, length)
    facts = {
        "demonstrations": len(drawn),
        "demonstrations_kept": sum(context.kept) / len(rows),
        "fewest_demonstrations_kept": min(context.kept),
    }
    if not settings.sfc:
        evaluation = problem.evaluate(model, context.prompts, **settings.batches)
        return [Measured("in_context", evaluation, facts)]
    of_domain = domain_encoder(encoder, settings.sfc_template)
    texts = [of_domain.prompt_text(row) for row in rows]
    alone = of_domain.encode(rows)
    domain = behind_demonstrations(of_domain, alone, texts, context.demonstrations, context.kept)
    return _plain_and_calibrated("in_context", problem, model, context.prompts, domain, settings, facts)


def _linear_probe(problem: Problem, model: nn.Module, settings: Settings) -> list[Measured]:
    assert isinstance(problem, PromptedProblem)
    evaluation = evaluate_probe(model, problem.train, problem.evaluation, problem.encoder, **settings.batches)
    return [Measured("linear_probe", evaluation, {"training_rows": len(problem.train)})]


def _plain_and_calibrated(
    mode: str,
    problem: PromptedProblem,
    model: nn.Module,
    prompts: EncodedPrompts,
    domain: EncodedPrompts,
    settings: Settings,
    facts: dict[str, Any] | None = None,
) -> list[Measured]:
    task = problem.encoder.task
    plain = scores_of_options(model, prompts, problem.encoder, **settings.batches)
    of_domain = domain_scores(model, domain, problem.encoder, **settings.batches)
    differences = calibrated(plain, prompts.examples, of_domain, domain.examples)
    return [
        Measured(name, evaluation_of_scores(task, prompts.rows, scores), facts or {})
        for name, scores in ((mode, plain), (f"{mode}+sfc", differences))
    ]


MODES: dict[str, Callable[[Problem, nn.Module, Settings], Sequence[Measured]]] = {
    "zero_shot": _zero_shot,
    "in_context": _in_context,
    "linear_probe": _linear_probe,
}
"""What a recipe calls each way, and what it does."""
