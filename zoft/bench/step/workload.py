"""A model and a batch to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from zoft.bench.problems.trained import select_trained
from zoft.bench.step.shapes import SHAPES, shape
from zoft.checks import check_choice, check_count
from zoft.errors import ConfigError
from zoft.tasks.assets import is_packaged, resolve_model
from zoft.tasks.label_logits import language_model
from zoft.tasks.scoring import option_losses
from zoft.tasks.token_scoring import conversation_losses

__all__ = ["DTYPES", "LOSSES", "SHAPES", "Workload"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _label_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The loss of `zoft-train`'s prompts: two one-token options after each row."""
    count = len(ids)
    where = torch.full((count, 1), -1, device=ids.device)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "option_ids": torch.tensor([[5, 6]], device=ids.device).expand(count, -1),
        "option_positions": where,
        "labels": torch.zeros(count, dtype=torch.long, device=ids.device),
    }
    return option_losses(model, batch).mean()


def _lm_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The loss of `zoft-train`'s supervised fine-tuning, with every token but the first to train on."""
    count, length = ids.shape
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "label_ids": ids[:, 1:],
        "label_positions": torch.arange(-length, -1, device=ids.device).expand(count, -1),
    }
    return conversation_losses(model, batch).mean()


def _own_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The loss that the model itself returns, of all tokens, for which it makes all logits at once."""
    loss: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
    return loss


LOSSES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"label": _label_loss, "lm": _lm_loss, "own": _own_loss}


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        model: ``packaged:NAME``, a folder, a Hub name, or a shape; see `zoft.bench.step.shapes`.
        dtype: Of the weights.
        batch_size: Rows.
        length: Tokens of each; none is padding.
        loss: ``label``: as zoft-train scores one-token options. ``lm``: as zoft-train scores all tokens.
            ``own``: ``model(**batch).loss``.
        device: Where it runs.
    """

    model: str = "packaged:smollm2-135m-instruct"
    dtype: str = "float32"
    batch_size: int = 16
    length: int = 64
    loss: str = "label"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("loss", self.loss, LOSSES)
        check_count("batch_size", self.batch_size)
        check_count("length", self.length)
        shape(self.model)

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return self.batch_size * self.length

    def load(self, train: str) -> tuple[nn.Module, Callable[[], Tensor]]:
        """Return the model, in evaluation mode, and the loss of the batch.

        Args:
            train: See `zoft.bench.problems.trained.select_trained`.
        """
        device = torch.device(self.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            if shape(self.model) is not None:
                with device:
                    base = self._without_values()
            else:
                base = AutoModelForCausalLM.from_pretrained(self._name, dtype=DTYPES[self.dtype])
        model = select_trained(base, train, seed=0).to(device).eval()
        return model, self.loss_of(model)

    def describe(self, train: str) -> nn.Module:
        """Return the model on the meta device, in evaluation mode: shapes and types without values.

        Raises:
            ConfigError: The model's configuration cannot be read.
        """
        with torch.device("meta"):
            base = self._without_values()
        return select_trained(base, train, seed=0).eval()

    def loss_of(self, model: nn.Module) -> Callable[[], Tensor]:
        """Return the loss of the batch, whose tokens are random, as a closure."""
        generator = torch.Generator().manual_seed(0)
        vocabulary = language_model(model).config.vocab_size
        ids = torch.randint(vocabulary, (self.batch_size, self.length), generator=generator).to(self.device)
        return lambda: LOSSES[self.loss](model, ids)

    @property
    def _name(self) -> str:
        return str(resolve_model(self.model)) if is_packaged(self.model) else self.model

    def _without_values(self) -> PreTrainedModel:
        """Return the model that the configuration describes, as it is before training."""
        settings = shape(self.model)
        if settings is not None:
            config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        else:
            try:
                config = AutoConfig.from_pretrained(self._name)
            except (OSError, ValueError) as error:
                raise ConfigError(f"model {self.model!r} has no configuration that can be read: {error}") from None
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[self.dtype])  # type: ignore[no-untyped-call]
        assert isinstance(model, PreTrainedModel)
        return model
