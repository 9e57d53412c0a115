"""Training by gradients: the baseline that zeroth-order training is compared with, everything else being the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import TrainingArguments

from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.zeroth_order import ZOArguments
from zoft.cli.config import ParsedArguments
from zoft.cli.starts import begin
from zoft.errors import ConfigError
from zoft.hf.gradients import FORWARDS_PER_STEP, GradientTrainer
from zoft.hf.meters import peak_memory_bytes
from zoft.hf.tasks import ProblemTrainer
from zoft.log_file import LOG_NAME
from zoft.parameters import select
from zoft.problems.problem import Problem

__all__ = ["OPTIMIZERS", "FirstOrder"]

OPTIMIZERS = {"adamw": "adamw_torch", "sgd": "sgd"}
"""Names that ``zo_method`` may have, and what ``TrainingArguments.optim`` calls them."""

_SHARED = ("zo_method", "zo_include", "zo_exclude")  # those of ZOArguments that mean something here too


@dataclass(frozen=True)
class FirstOrder:
    """See :class:`zoft.cli.approaches.Approach`.

    The optimizer is torch's, the loop is Trainer's, with its own defaults (gradients are clipped to ``max_grad_norm``,
    dropout is on where the model has some). Loss, rows, batches, schedule and evaluation are the recipe's.
    """

    method: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    is_private = False
    evaluates = True
    writes = ()

    @classmethod
    def of(cls, parsed: ParsedArguments) -> FirstOrder:
        """Read a recipe's settings.

        Raises:
            ConfigError: They ask for something that training by gradients does not have.
        """
        zo, values, defaults = parsed.get(ZOArguments), parsed.values, parsed.defaults
        method = zo.zo_method
        foreign = [name for name in vars(zo) if name not in _SHARED and values[name] != defaults[name]]
        foreign += [name for name in ("zo_checkpoints", "zo_snapshot_steps") if values[name] != defaults[name]]
        # A recipe for forward passes says how large its perturbations are; that is no reason not to compare with it.
        foreign = [name for name in foreign if name not in ("zo_eps", "zo_num_queries", "zo_distribution")]
        if foreign:
            raise ConfigError(
                f"{foreign[0]} is for forward passes, and zo_method {method} trains by gradients; leave it out"
            )
        if parsed.get(PrivacyArguments).is_private:
            raise ConfigError(f"private runs are zeroth-order, and zo_method {method} trains by gradients; choose mezo")
        if values["optim"] not in (defaults["optim"], OPTIMIZERS[method]):
            raise ConfigError(f"optim {values['optim']!s} contradicts zo_method {method}; leave optim out")
        return cls(method, tuple(zo.zo_include), tuple(zo.zo_exclude))

    @property
    def resolved(self) -> dict[str, Any]:
        """Nothing is left open."""
        return {}

    def trainer(
        self, parsed: ParsedArguments, model: Any, processor: Any, problem: Problem, output_dir: Path
    ) -> GradientTrainer:
        """Make the Trainer, of the parameters that the recipe trains."""
        args = parsed.get(TrainingArguments)
        if not problem.is_differentiable:
            raise ConfigError(
                f"this objective has no gradient, and zo_method {self.method} trains by gradients; train by forward "
                "passes (mezo, fzoo, es, ...)"
            )
        args.set_optimizer(
            OPTIMIZERS[self.method],
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            beta1=args.adam_beta1,
            beta2=args.adam_beta2,
            epsilon=args.adam_epsilon,
            args=args.optim_args,
        )
        trained = {id(trainable.parameter) for trainable in select(model, self.include, self.exclude)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        if (output_dir / LOG_NAME).exists():
            raise ConfigError(
                f"{output_dir} holds the log of a run by forward passes, and its files would be mixed with this one's; "
                "give another output_dir"
            )
        if parsed.get(RunArguments).resume and not any(output_dir.glob("checkpoint-*")):
            raise ConfigError(
                f"{output_dir} holds no checkpoint to resume from: a run by gradients has no replay log; it resumes "
                "from what save_strategy and save_steps made it save"
            )
        begin(parsed, model, problem, output_dir)
        return GradientTrainer(
            method=self.method, model=model, args=args, **problem.for_trainer(), processing_class=processor
        )

    def summary(self, trainer: ProblemTrainer) -> dict[str, Any]:
        """Return a finished run's figures."""
        run = cast("GradientTrainer", trainer)
        return {
            "steps": run.state.global_step,
            "forwards": run.forwards,
            "processes": run.args.world_size,
            "method": self.method,
            "trained_parameters": run.get_num_trainable_parameters(),
            "peak_memory_gib": round(peak_memory_bytes() / 2**30, 3),
        }

    def remarks(self, trainer: ProblemTrainer) -> tuple[str, ...]:
        """Say what a step counts for."""
        return (f"a step by gradients counts for {FORWARDS_PER_STEP} forwards",)
