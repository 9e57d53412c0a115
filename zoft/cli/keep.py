"""What ``zoft-train`` leaves of a finished run, beside its log and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.tasks import IMAGES
from zoft.cli.config import ParsedArguments

if TYPE_CHECKING:
    from zoft.hf.tasks import ProblemTrainer


def keep(trainer: ProblemTrainer, parsed: ParsedArguments, metrics: Mapping[str, Any]) -> None:
    """Save what the Trainer logged and, unless the user does not want it, the model with its card.

    All processes of a run must call this.

    Args:
        trainer: The trainer, after training.
        parsed: The run's settings.
        metrics: What ``metrics.json`` holds.
    """
    from zoft.hf.model_card import CardFacts

    model, data = parsed.get(ModelArguments), parsed.get(DataArguments)
    scores = {name: metrics[name] for name in ("before", "after") if name in metrics}
    trainer.zo_card = CardFacts(
        base_model=model.model_name_or_path,
        dataset=data.dataset or data.train_file or data.task,
        task=_task(data, scores.get("after", {})),
        scores=scores,
        replay="zoft-replay --config resolved_config.yaml --log zo_log --save_to replayed",
    )
    trainer.save_state()
    if parsed.get(RunArguments).save_model:
        trainer.save_model(str(trainer.args.output_dir))  # with push_to_hub, this publishes too
        trainer.create_model_card()


def _task(data: DataArguments, scores: Mapping[str, Any]) -> str:
    """Return what the Hub calls the task."""
    if data.task == IMAGES:
        return "image-classification"
    return "text-classification" if "accuracy" in scores else "text-generation"
