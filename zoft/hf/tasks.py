"""A trainer of problems: whatever their loss, and whatever is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from zoft.errors import ConfigError
from zoft.hf.model_card import ModelCards
from zoft.hf.trainer import ZOTrainerMixin
from zoft.problems.problem import Evaluate, Losses

__all__ = ["OnceLogged", "ProblemTrainer", "TaskTrainer"]


class ProblemTrainer(ModelCards, Trainer):  # type: ignore[misc]
    """A Trainer whose loss and whose evaluation are a problem's (:class:`zoft.problems.problem.Problem`).

    Args:
        losses: From a model and a batch to the examples' losses, of which the mean is trained on.
        evaluate: Measures a model; what it returns is reported in place of what Trainer would measure.
        *args: Trainer's own.
        **kwargs: Trainer's own.
    """

    # The loss is a mean over the batch, which Trainer must still divide by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, losses: Losses, evaluate: Evaluate, **kwargs: Any) -> None:
        self._losses, self._evaluate_problem = losses, evaluate
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean of the examples' losses; that of each, for a method that asks for it."""
        losses = self._losses(model, inputs)
        if self._wants_losses_of_examples() and not return_outputs:
            if losses.dim() == 0:
                raise ConfigError(
                    "this method needs a loss of each example, and the objective is one number for the whole batch; "
                    "choose an objective that is a mean over examples, or another method"
                )
            return losses
        return (losses.mean(), {}) if return_outputs else losses.mean()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the model as the problem says; returns, and logs, its figures under names with the prefix."""
        result = self._evaluate_problem(
            self.model,
            self.eval_dataset if eval_dataset is None else eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            device=self.args.device,
        )
        metrics = {
            f"{metric_key_prefix}_{name}": value
            for name, value in result.scores.items()
            if isinstance(value, (int, float))
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _wants_losses_of_examples(self) -> bool:
        return False


class TaskTrainer(ZOTrainerMixin, ProblemTrainer):  # type: ignore[misc]
    """Trains a problem by forward passes, as ``zoft-train`` does."""

    def _wants_losses_of_examples(self) -> bool:
        return self._zo_optimizer is not None and self.zo_engine.method.evaluation == "per_example"


class OnceLogged(TrainerCallback):
    """Calls a function when a run begins and its log is open; add it after the trainer was made."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self._function()
