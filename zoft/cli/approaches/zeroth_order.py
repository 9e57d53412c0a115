"""Training by forward passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import TrainingArguments

from zoft.cli.arguments.privacy import PrivacyArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.zeroth_order import ZOArguments
from zoft.cli.config import ParsedArguments
from zoft.cli.starts import begin
from zoft.errors import ConfigError
from zoft.hf.meters import peak_memory_bytes
from zoft.hf.tasks import ProblemTrainer, TaskTrainer
from zoft.log_file import LOG_NAME
from zoft.method import build_method
from zoft.privacy import PrivacyConfig
from zoft.problems.problem import Problem
from zoft.types import ZOConfig

__all__ = ["ZerothOrder", "privacy_config", "zo_config"]


@dataclass(frozen=True)
class ZerothOrder:
    """See :class:`zoft.cli.approaches.Approach`."""

    config: ZOConfig
    privacy: PrivacyConfig | None

    @classmethod
    def of(cls, parsed: ParsedArguments) -> ZerothOrder:
        """Read a recipe's settings.

        Raises:
            ConfigError: They contradict each other or are out of range.
        """
        config = zo_config(parsed)
        build_method(config)  # refuses what cannot be
        return cls(config, privacy_config(parsed))

    @property
    def is_private(self) -> bool:
        """Whether the run is differentially private."""
        return self.privacy is not None

    @property
    def evaluates(self) -> bool:
        """Whether the held-out rows may be measured: in a private run, if they are public."""
        return self.privacy is None or self.privacy.dp_eval_is_public

    @property
    def resolved(self) -> dict[str, Any]:
        """What was left to the method, or to ``seed``, has become. A zo_eps that is measured stays open."""
        config = build_method(self.config).config
        return {
            "zo_lr": config.zo_lr or "given",
            "zo_eps": config.zo_eps if self.config.zo_lr is None else self.config.zo_eps,
            "zo_num_queries": config.num_queries,
            "zo_seed": config.seed,
            "zo_distribution": config.distribution,
        }

    @property
    def writes(self) -> tuple[str, ...]:
        """The replay log."""
        return (LOG_NAME,)

    def trainer(
        self, parsed: ParsedArguments, model: Any, processor: Any, problem: Problem, output_dir: Path
    ) -> TaskTrainer:
        """Make the Trainer; where the run starts from is kept for replays, if no checkpoint holds it."""
        args, options = parsed.get(TrainingArguments), parsed.get(RunArguments)
        config = self._config_for(problem)
        begin(parsed, model, problem, output_dir)
        return TaskTrainer(
            model=model,
            args=args,
            zo=config,
            privacy=self.privacy,
            zo_checkpoints=options.zo_checkpoints,
            zo_snapshot_steps=options.zo_snapshot_steps,
            **problem.for_trainer(),
            processing_class=processor,
        )

    def _config_for(self, problem: Problem) -> ZOConfig:
        """Return the configuration for a problem.

        Raises:
            ConfigError: The method differentiates losses, and the problem's have no gradient.
        """
        if not problem.is_differentiable and build_method(self.config).evaluation == "differentiated":
            raise ConfigError(
                f"zo_method {self.config.method} differentiates the loss, and this objective has no gradient; choose a "
                "method that only evaluates it (mezo, fzoo, es, ...)"
            )
        # stream makes the noise anew in every forward, and writing takes one for each token.
        moves_once = (
            problem.writes and self.config.placement == "auto" and build_method(self.config).evaluation == "moved"
        )
        return replace(self.config, placement="snapshot") if moves_once else self.config

    def summary(self, trainer: ProblemTrainer) -> dict[str, Any]:
        """Return a finished run's figures."""
        run = cast("TaskTrainer", trainer)
        engine, spending = run.zo_engine, run.zo_spending
        return {
            "steps": engine.step,
            "forwards": run.zo_forwards,
            **run.zo_step_size.figures,
            "processes": run.args.world_size,
            "method": engine.config.method,
            "placement": engine.placement,
            "trained_parameters": sum(t.parameter.numel() for t in engine.trainables),
            **({"peak_memory_gib": round(peak_memory_bytes() / 2**30, 3)} if spending is None else spending.figures),
        }

    def remarks(self, trainer: ProblemTrainer) -> tuple[str, ...]:
        """Return what was spent of the privacy budget, if there is one."""
        spending = cast("TaskTrainer", trainer).zo_spending
        return () if spending is None else (f"privacy: {spending}",)


def zo_config(parsed: ParsedArguments) -> ZOConfig:
    """Build the zeroth-order configuration of a recipe.

    Raises:
        ConfigError: A setting is out of range.
    """
    zo = parsed.get(ZOArguments)
    config = ZOConfig(
        method=zo.zo_method,
        zo_lr="auto" if zo.zo_lr == "auto" else None,
        zo_eps=zo.zo_eps,
        num_queries=zo.zo_num_queries,
        seed=parsed.get(TrainingArguments).seed if zo.zo_seed is None else zo.zo_seed,
        distribution=zo.zo_distribution,
        shared_vector=zo.zo_shared_vector,
        placement=zo.zo_placement,
        include=tuple(zo.zo_include),
        exclude=tuple(zo.zo_exclude),
        nonfinite=zo.zo_nonfinite,
        scratch_mib=zo.zo_scratch_mib,
        batched_tokens=zo.zo_batched_tokens,
        query_parallel_size=zo.zo_query_parallel_size,
        replica_check_steps=zo.zo_replica_check_steps,
        force=zo.zo_force,
        method_kwargs=zo.method_kwargs,
    )
    is_open = zo.zo_lr is None and "learning_rate" not in parsed.given
    if is_open and not parsed.get(PrivacyArguments).is_private and build_method(config).can_measure_lr:
        return replace(config, zo_lr="auto")
    return config


def privacy_config(parsed: ParsedArguments) -> PrivacyConfig | None:
    """Build a recipe's promise of privacy, None without."""
    asked = parsed.get(PrivacyArguments)
    return PrivacyConfig(**vars(asked)) if asked.is_private else None
