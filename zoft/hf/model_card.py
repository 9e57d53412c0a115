"""The model card that goes with a trained model: what was trained, on what, how, and how to rebuild it."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from torch import nn
from transformers import SchedulerType, TrainingArguments

from zoft.environment import environment
from zoft.markdown import plain, table, verbatim
from zoft.optim import PrivateSteps

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# What Trainer logs of an evaluation beside scores.
_NO_SCORES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


@dataclass(frozen=True)
class CardFacts:
    """What a trainer does not know of its run, for the card.

    Attributes:
        base_model: The model that training started from: a Hub id, a folder, or any name.
        dataset: The data, likewise.
        task: What the scores are about, as the Hub calls tasks, such as ``"text-classification"``.
        scores: Held-out scores by when they were measured, ``{"before": {"accuracy": 0.5}, "after": ...}``.
        replay: The command that rebuilds the model, run in its folder; None: the card shows how to in Python.
    """

    base_model: str | None = None
    dataset: str | None = None
    task: str = "text-generation"
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replay: str | None = None


@dataclass(frozen=True)
class HowTrained:
    """What a card says of the training itself.

    Attributes:
        by: By what means, to go on "trained on DATA".
        rows: Names and values of its table, as Markdown.
        tags: What the Hub finds the model under.
        privacy: What was spent of a budget; None: it was not private.
        log: The replay log, if there is one.
    """

    by: str
    rows: Iterable[tuple[str, str]]
    tags: tuple[str, ...] = ()
    privacy: PrivateSteps | None = None
    log: Path | None = None


class ModelCards(ABC):
    """What trainers do about cards; put before a Trainer class.

    Attributes:
        zo_card: What cards are to say beside what the trainer knows; may be set at any time.
    """

    args: TrainingArguments
    model: nn.Module
    state: Any
    accelerator: Any
    zo_card: CardFacts = CardFacts()

    @abstractmethod
    def how_trained(self) -> HowTrained | None:
        """Return what there is to say of the training; None before it has begun."""

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        dataset_name: str | None = None,
    ) -> None:
        """Write ``README.md`` into the output folder; needs no network, so a license is stated only if it is given.

        Arguments are Trainer's and, with ``dataset_name``, TRL's.
        """
        how = self.how_trained() if self.args.should_save else None
        if how is None:
            return
        given = [*_listed(dataset_tags), *_listed(dataset_name), *_listed(dataset)]
        datasets = given or _listed(self.zo_card.dataset)
        base = finetuned_from or self.zo_card.base_model or _name_of(self.model)
        scores = self.zo_card.scores or _last_scores(self.state.log_history)
        name = model_name or Path(str(self.args.output_dir)).resolve().name
        is_adapter = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        data = ModelCardData(
            base_model=_hub_id(base),
            base_model_relation=None if _hub_id(base) is None else "adapter" if is_adapter else "finetune",
            datasets=[tag for tag in map(_hub_id, datasets) if tag] or None,
            language=language,
            library_name="peft" if is_adapter else "transformers",
            license=license,
            model_name=name,
            pipeline_tag=next(iter(_listed(tasks)), None),
            tags=[
                "zoft",
                *how.tags,
                *(["differential-privacy"] if how.privacy is not None else []),
                *(getattr(self.model, "model_tags", None) or []),
                *_listed(tags),
            ],
            eval_results=_eval_results(scores, datasets, self.zo_card.task),
        )
        said = ", ".join(map(plain, map(_public, [*datasets, *_listed(dataset_args)]))) or "not stated"
        text = [
            f"# {plain(name)}",
            _introduction(base, datasets, is_adapter, how.by),
            *_results(scores),
            "## Training",
            table([("", ""), ("data", said), *how.rows]),
            *_privacy(how.privacy),
            *([] if how.log is None else ["## Rebuilding", *_rebuilding(how.log, self.zo_card.replay)]),
            "## Environment",
            table([("", ""), *((name, plain(x)) for name, x in environment(self.args.device.type).items() if x)]),
        ]
        card = ModelCard(f"---\n{data}\n---\n\n" + "\n\n".join(text) + "\n")
        card.save(Path(str(self.args.output_dir), "README.md"))


def budget_rows(
    args: TrainingArguments, *, steps: int, forwards: int, remark: str, examples: str, rate: str, trained: int
) -> Iterable[tuple[str, str]]:
    """Return what a card says of any training: its length, its batches, its learning rate, its parameters."""
    batch = int(args.train_batch_size) * args.gradient_accumulation_steps * int(args.world_size)
    processes = f" on each of {args.world_size} processes" if args.world_size > 1 else ""
    yield "steps", f"{steps:,}"
    yield "budget", f"{forwards:,} forwards{processes}, {remark}"
    yield "batch", f"{batch} examples a step{examples}"
    yield "learning rate", f"{rate}, {SchedulerType(args.lr_scheduler_type).value}"
    yield "trained parameters", f"{trained:,}"


def _introduction(base: str | None, datasets: list[str], is_adapter: bool, by: str) -> str:
    what = "An adapter for" if is_adapter else "Fine-tuned from"
    of = "a model that is not named" if base is None else plain(_public(base))
    on = f" on {', '.join(map(plain, map(_public, datasets)))}" if datasets else ""
    return f"{what} {of}, trained{on} {by} with zoft."


def _results(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for of in scores.values() for name in of if isinstance(of[name], (int, float)))
    if not names:
        return []
    rows = [[plain(name.replace("_", " ")), *(_number(of.get(name)) for of in scores.values())] for name in names]
    return ["## Results", table([["held-out rows", *(when.replace("_", " ") for when in scores)], *rows])]


def _privacy(spending: PrivateSteps | None) -> list[str]:
    if spending is None:
        return []
    return [
        "## Privacy",
        f"Training was differentially private: {spending}. Its plan: {spending.plan}. This holds for one row of the "
        "training set, if the base model was not made from these rows; further runs over the same rows add to it. "
        "`zoft-report` reads it from the replay log.",
    ]


def _rebuilding(log: Path, command: str | None) -> list[str]:
    digest = hashlib.sha256(log.read_bytes()).hexdigest()
    python = f"zoft.replay(base_model, {log.name!r})"
    return [
        f"The base model's weights plus `{log.name}` ({log.stat().st_size:,} bytes, SHA-256 `{digest}`) are these "
        "weights, bit for bit; the log knows its base weights by their hashes. To rebuild them:",
        verbatim(python, "python") if command is None else verbatim(command, "sh"),
    ]


def _eval_results(scores: Mapping[str, Mapping[str, Any]], datasets: list[str], task: str) -> list[EvalResult] | None:
    """Return the last scores as the Hub's metadata, which needs a data set that the Hub knows."""
    known = [tag for tag in map(_hub_id, datasets) if tag]
    if not known or "after" not in scores:
        return None
    after = {name: x for name, x in scores["after"].items() if isinstance(x, (int, float)) and name != "n"}
    return [
        EvalResult(
            task_type=task, dataset_type=known[0], dataset_name=known[0], metric_type=name, metric_value=float(value)
        )
        for name, value in after.items()
    ] or None


def _last_scores(history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the scores of the last evaluation that a Trainer logged."""
    evaluations = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
    if not evaluations:
        return {}
    scores = {key.removeprefix("eval_"): x for key, x in evaluations[-1].items() if key.startswith("eval_")}
    return {"after": {name: x for name, x in scores.items() if name not in _NO_SCORES}}


def _name_of(model: nn.Module) -> str | None:
    """Return where a model was loaded from, if it says so."""
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def _hub_id(name: str | None) -> str | None:
    """Return a name if it can be one on the Hub."""
    return name if name is not None and _HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _public(name: str) -> str:
    """Return a name without the folders of this machine."""
    return Path(name).name if Path(name).exists() else name


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int) else ""
