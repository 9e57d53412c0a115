"""``ZOCallback``: an unmodified ``transformers.Trainer`` trains by forward passes.

Trainer gives its callbacks no reference to itself, so the callback looks for it up the stack when Trainer's
constructor announces its end. From then on ``train`` of that one object lends it the methods of
:class:`zoft.ZOTrainerMixin` while it runs, and takes them back however it ends. The model is left alone: neither
its ``forward`` nor its ``requires_grad`` flags are touched, so there is nothing to restore on it, and losses that
Trainer computes outside the model's forward are estimated like all others.
"""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoft.errors import ConfigError
from zoft.hf.checks import refuse
from zoft.hf.private import refuse_private
from zoft.hf.trainer import LogKeeper, ZOTrainerMixin
from zoft.privacy import PrivacyConfig
from zoft.types import ZOConfig


class ZOCallback(LogKeeper):
    """``Trainer(model=..., args=..., callbacks=[ZOCallback(ZOConfig(method="fzoo"))])``, of any Trainer class.

    The run is that of a :class:`zoft.ZOTrainer`: the same records, weights and checkpoints.

    Args:
        config: The zeroth-order configuration.
        privacy: See :class:`zoft.ZOTrainerMixin`.
        zo_checkpoints: See :class:`zoft.ZOTrainerMixin`.
        zo_snapshot_steps: See :class:`zoft.ZOTrainerMixin`.

    Raises:
        ConfigError: In Trainer's constructor, if the Trainer is asked for something that forward-only training
            cannot do, or has another ZOCallback; at the start of training, if the callback was added later.
    """

    def __init__(
        self,
        config: ZOConfig | None = None,
        *,
        privacy: PrivacyConfig | None = None,
        zo_checkpoints: str = "full",
        zo_snapshot_steps: int | None = None,
    ) -> None:
        super().__init__(None)
        self.config = ZOConfig.of(config)
        self.privacy = PrivacyConfig.of(privacy)
        self._checkpoints = (zo_checkpoints, zo_snapshot_steps)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take hold of the Trainer that is being made."""
        trainer = _announcing_trainer(self)
        if self._trainer is not None:
            raise ConfigError("this ZOCallback already belongs to another Trainer; make one for each Trainer.")
        if isinstance(trainer, ZOTrainerMixin):
            raise ConfigError(
                f"{type(trainer).__name__} is a ZOTrainerMixin already: leave ZOCallback out and pass zo=ZOConfig(...)."
            )
        if sum(isinstance(callback, ZOCallback) for callback in trainer.callback_handler.callbacks) > 1:
            raise ConfigError("callbacks=[...] holds more than one ZOCallback; a run has one configuration.")
        ZOTrainerMixin._set_up(trainer, self.config, self.privacy)
        refuse(trainer, self.config)
        refuse_private(trainer, self.config, self.privacy, trainer.model)
        ZOTrainerMixin._choose_checkpoints(trainer, *self._checkpoints, self.config)
        self._trainer = trainer
        trainer.train = self._lending(trainer)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the log."""
        if not isinstance(self._trainer, ZOTrainerMixin):
            raise ConfigError(
                "ZOCallback was added to a Trainer that had been made before; pass it to the constructor, as "
                "callbacks=[ZOCallback(...)]."
            )
        super().on_train_begin(args, state, control, **kwargs)

    def _lending(self, trainer: Any) -> Any:
        """Return a ``train`` during which the Trainer has the mixin's methods before those of its class."""
        own = type(trainer)
        lent: Any = type(own.__name__, (ZOTrainerMixin, own), {})

        @functools.wraps(own.train)
        def train(*args: Any, **kwargs: Any) -> Any:
            if self not in trainer.callback_handler.callbacks:  # it was taken out again
                if trainer._zo_optimizer is not None:
                    # A Trainer keeps the optimizer that it has, and this one would train nothing.
                    trainer._zo_optimizer = trainer.optimizer = trainer.lr_scheduler = None
                return own.train(trainer, *args, **kwargs)
            hiding = sorted(set(vars(trainer)) & set(dir(ZOTrainerMixin)) - {"train"})
            if hiding:
                raise ConfigError(
                    f"{', '.join(hiding)} of this Trainer object was replaced, which hides ZOCallback's. Put it into a "
                    f"class instead: class Mine(ZOTrainerMixin, {own.__name__})."
                )
            trainer.__class__ = lent
            try:
                return lent.train(trainer, *args, **kwargs)
            finally:
                trainer.__class__ = own

        return train


def _announcing_trainer(callback: TrainerCallback) -> Any:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer) and callback in found.callback_handler.callbacks:
            return found
        frame = frame.f_back
    raise ConfigError("ZOCallback needs a transformers Trainer: Trainer(..., callbacks=[ZOCallback(...)]).")
