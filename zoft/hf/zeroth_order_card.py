"""What a model card says of training by forward passes."""

from __future__ import annotations

from pathlib import Path

from zoft.hf.model_card import HowTrained, ModelCards, budget_rows
from zoft.optim import ZOOptimizer

__all__ = ["ZerothOrderCards"]


class ZerothOrderCards(ModelCards):
    """What :class:`zoft.hf.trainer.ZOTrainerMixin` does about cards; put before a Trainer class."""

    _zo_optimizer: ZOOptimizer | None

    def how_trained(self) -> HowTrained | None:
        """See :class:`zoft.hf.model_card.ModelCards`."""
        optimizer = self._zo_optimizer
        if optimizer is None:
            return None
        engine = optimizer.engine
        config = engine.method.config
        queries = "1 query" if config.num_queries == 1 else f"{config.num_queries} queries"
        measured = optimizer.step_size.figures.get("zo_lr")
        rate = f"{self.args.learning_rate:g}" if measured is None else f"measured, {measured:.2g} in the end"
        rows = [
            ("method", f"{config.method}, {queries} a step, {config.distribution} directions of seed {config.seed}"),
            ("zo_eps", f"{engine.zo_eps:.3g}"),
            *budget_rows(
                self.args,
                steps=engine.step,
                forwards=self.zo_forwards,  # type: ignore[attr-defined]
                remark="no backward pass",
                examples=" are expected" if optimizer.privacy is not None else "",
                rate=rate,
                trained=sum(t.parameter.numel() for t in engine.trainables),
            ),
        ]
        log: Path = self._log_path  # type: ignore[attr-defined]
        by = "by forward passes alone (zeroth-order optimisation)"
        return HowTrained(by, rows, ("zeroth-order",), optimizer.privacy, log)
