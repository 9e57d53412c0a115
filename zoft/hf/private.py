"""What privacy asks of a Trainer: its batches, its logs, and what it must not do.

Batches are Poisson samples, and each example of one is collated and evaluated alone, so that nothing of it (padding, a
kernel's choice of blocks, a count of tokens) depends on its company. Logs hold what is public and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput, has_length

from zoft.distributed import Replicas
from zoft.errors import ConfigError
from zoft.hf.checks import is_compiled
from zoft.method import build_method
from zoft.optim import ZOOptimizer
from zoft.privacy import PoissonBatches, PrivacyConfig, PrivacyPlan
from zoft.privacy.chance import drawing_nothing
from zoft.privacy.plan import steps_per_epoch
from zoft.privacy.qualify import check_model, private_config
from zoft.privacy.sampling import secret_key
from zoft.types import ZOConfig

EXAMPLES = "zo_examples"
"""Under this name a private batch holds a list of batches of one example each."""

# TRL's trainers whose loss of an example is its own.
_TRLS = ("SFTTrainer", "DPOTrainer", "RewardTrainer")

# Facts that do not depend on the data, and what is made of noised values.
_PUBLIC = ("learning_rate", "epoch", "step", "projected_grad", "epsilon")


class PrivateTraining:
    """What :class:`zoft.hf.trainer.ZOTrainerMixin` does for privacy, if it is asked to; put before a Trainer class."""

    args: TrainingArguments
    state: Any
    zo: ZOConfig
    privacy: PrivacyConfig | None
    callback_handler: Any
    _zo_optimizer: ZOOptimizer | None

    def get_train_dataloader(self) -> Any:
        """Trainer's; in a private run over Poisson batches, see the module."""
        loader = super().get_train_dataloader()  # type: ignore[misc]
        return loader if self.privacy is None else self._poisson(loader)

    def _poisson(self, loader: Any) -> DataLoader[Any]:
        args, replicas = self.args, Replicas.current()
        num_examples, batch = len(loader.dataset), self._expected_batch_size
        batches = PoissonBatches(
            num_examples,
            min(1.0, batch / num_examples),  # a larger one is refused when the run is planned
            steps=steps_per_epoch(num_examples, batch),
            key=replicas.from_first(secret_key),
            micro_batches=args.gradient_accumulation_steps,
            rank=replicas.rank,
            world_size=replicas.size,
        )
        return DataLoader(
            _Alone(loader.dataset, loader.collate_fn),
            batch_sampler=batches,
            collate_fn=_side_by_side,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )

    @property
    def _expected_batch_size(self) -> int:
        args = self.args
        return int(args.train_batch_size) * args.gradient_accumulation_steps * int(args.world_size)

    def _plan(self) -> PrivacyPlan | None:
        """Plan the run that is about to begin, whose number of steps is known by now."""
        if self.privacy is None:
            return None
        return PrivacyPlan.of(
            self.privacy,
            num_examples=len(self.train_dataset),  # type: ignore[attr-defined]
            expected_batch_size=self._expected_batch_size,
            steps=self.state.max_steps,
            num_scalars=build_method(self.zo).estimator.num_scalars,
        )

    def _check_plan(self, optimizer: ZOOptimizer) -> None:
        """Make sure that the batches are those that the run's noise was made for.

        Raises:
            ConfigError: If the data set or the batch size were changed since an earlier ``train()``.
        """
        if optimizer.privacy is None:
            return
        plan, now = optimizer.privacy.plan, (self._expected_batch_size, len(self.train_dataset))  # type: ignore[attr-defined]
        if now != (plan.expected_batch_size, plan.num_examples):
            raise ConfigError(
                f"this private run was planned for {plan.expected_batch_size} of {plan.num_examples} examples a step, "
                f"and would now sample {now[0]} of {now[1]}, which is not what its noise pays for. Make a new Trainer, "
                "in another output_dir."
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's; in a private run, of what is public.

        Trainer's own is then called in place of that of a class between, which would add what it has collected.
        """
        if self.privacy is None:
            super().log(logs, *args, **kwargs)  # type: ignore[misc]
            return
        public = self._public(logs)
        spending = None if self._zo_optimizer is None else self._zo_optimizer.privacy
        if "learning_rate" in public and spending is not None:
            public["epsilon"] = round(spending.epsilon, 4)
            for callback in self.callback_handler.callbacks:
                bar: Any = callback.training_bar if isinstance(callback, ProgressCallback) else None
                if bar is not None:
                    bar.set_postfix(epsilon=f"{spending.epsilon:.3f}")
        Trainer.log(cast("Trainer", self), public, *args, **kwargs)

    def _public(self, logs: Mapping[str, float]) -> dict[str, float]:
        assert self.privacy is not None
        shown = "eval_" if self.privacy.dp_eval_is_public else None
        return {key: x for key, x in logs.items() if key in _PUBLIC or (shown is not None and key.startswith(shown))}

    def _output(self, output: TrainOutput) -> TrainOutput:
        """Return what ``train`` returns; in a private run, without what is not public."""
        if self.privacy is None:
            return output
        return TrainOutput(output.global_step, math.nan, self._public(output.metrics))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's.

        Raises:
            ConfigError: In a private run, unless the evaluation data were said to be public.
        """
        if self.privacy is not None and not self.privacy.dp_eval_is_public:
            raise ConfigError(
                "evaluate() publishes exact scores of its data, and this run is private. If those data are public, say "
                "so: PrivacyConfig(dp_eval_is_public=True)."
            )
        scores: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        return scores

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's; in a private run 0, since lengths of examples are private."""
        return 0 if self.privacy is not None else super().floating_point_ops(inputs)  # type: ignore[misc]


class _Alone(Dataset[Any]):
    """A data set's examples, each fetched and collated by itself: a data set's transform of several may pad them."""

    def __init__(self, dataset: Any, collate: Callable[[Sequence[Any]], Any]) -> None:
        self._dataset, self._collate = dataset, collate

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Any:
        with drawing_nothing("train_dataset or data_collator"):
            return self._collate([self._dataset[number]])


def _side_by_side(examples: list[Any]) -> dict[str, list[Any]]:
    return {EXAMPLES: examples}


def refuse_private(trainer: Any, zo: ZOConfig, privacy: PrivacyConfig | None, model: nn.Module) -> None:
    """Refuse what would make a private run less than that.

    Args:
        trainer: A ``transformers.Trainer`` that has just been made.
        zo: The zeroth-order configuration.
        privacy: The promise; None: nothing is refused.
        model: The trainer's model.

    Raises:
        ConfigError: If something that was asked for is not private; says why, and what to do.
    """
    if privacy is None:
        return
    private_config(zo)
    check_model(model)
    args = trainer.args
    if not privacy.dp_eval_is_public:
        asked = {
            "eval_strategy": args.eval_strategy != "no",
            "eval_on_start": args.eval_on_start,
            "load_best_model_at_end": args.load_best_model_at_end,
            "save_strategy='best'": args.save_strategy == "best",
        }
        for name in (name for name, is_asked in asked.items() if is_asked):
            raise ConfigError(
                f"{name} measures the evaluation data exactly, or chooses by such measurements, which a private run "
                "must not do with private data. Leave it out or, if those data are public, say so: dp_eval_is_public."
            )
    if args.auto_find_batch_size:
        raise ConfigError(
            "auto_find_batch_size changes the sampling rate, for which the noise is made, by what fits into memory. "
            "Give per_device_train_batch_size; a private run evaluates examples one by one, so any fits."
        )
    # In a Kubeflow job, Trainer adds its own tracker, which shows how far the run is.
    if trackers := [name for name in args.report_to if name != "kubeflow"]:
        raise ConfigError(
            f"report_to={', '.join(trackers)} keeps the time of each entry, and how long steps take tells how many "
            "examples they had. Leave it out: zoft-report shows the run. If that may be known, add the tracker's "
            "callback yourself, in callbacks=[...]."
        )
    if args.include_num_input_tokens_seen not in ("no", False):
        raise ConfigError("include_num_input_tokens_seen logs the exact lengths of private batches. Leave it out.")
    if isinstance(trainer.train_dataset, IterableDataset) or not has_length(trainer.train_dataset):
        raise ConfigError(
            "a private run samples each example with the same probability, for which the training set must have a "
            f"length and an order; got a {type(trainer.train_dataset).__name__}. Load it whole, without streaming."
        )
    if vars(args).get("packing"):
        raise ConfigError(
            "packing=True puts parts of several examples into one row; then what is protected is a row, not an "
            "example. Leave it out."
        )
    if getattr(trainer.data_collator, "mlm", False):
        raise ConfigError(
            f"{type(trainer.data_collator).__name__} masks tokens at random, in the order of the examples, so that one "
            "example more would change the masks of those after it. Use a loss without random numbers."
        )
    if vars(args).get("precompute_ref_log_probs"):
        raise ConfigError(
            "precompute_ref_log_probs=True evaluates the reference on batches of the training set, padded to each "
            "other, so that an example's loss depends on its neighbours in the last bits. Leave it out."
        )
    trls = {cls.__name__ for cls in type(trainer).__mro__ if cls.__module__.startswith("trl.")}
    if trls and not trls & set(_TRLS):
        raise ConfigError(
            f"a {type(trainer).__name__} prepares or weighs examples by others of their batch, so that one more would "
            f"change what they add. Of TRL's, these can be private: {', '.join(_TRLS)}."
        )
    if is_compiled(trainer):
        raise ConfigError(
            "torch_compile chooses kernels by the shapes that came before, so that an example's loss depends on other "
            "examples in the last bits. Leave it out."
        )
    if trainer.is_fsdp_enabled:
        raise ConfigError(
            "with FSDP all processes must run equally many forwards, and how many examples each has is random in a "
            "private run. Use plain data parallelism (accelerate launch --multi_gpu)."
        )
    if args.world_size > 1 and trls:
        raise ConfigError(
            "TRL's losses wait for all processes at every evaluation, and how many examples each has is random in a "
            "private run. Use one process, or a Trainer whose loss does not gather."
        )
