"""Flags for ways of training on a batch, which ``zoft-bench`` times (``step``, ``growth``) or predicts (``memory``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoft.bench.step.workload import Workload


@dataclass
class TrainingWays:
    """What is trained, on what batch, in which ways."""

    _argument_group_name = "training"

    model: str = field(
        default="packaged:smollm2-135m-instruct",
        metadata={
            "help": "A packaged model, a folder, a Hub id, or random weights: shape:NAME (shape:opt-13b), or a Llama "
            "of any size (shape:llama:30M)."
        },
    )
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    batch_size: int = field(default=16, metadata={"help": "Rows of the batch."})
    length: int = field(default=64, metadata={"help": "Tokens of each row."})
    loss: str = field(
        default="label",
        metadata={
            "help": "label: one-token options after each row; lm: the loss of all tokens; own: the same, as the model "
            "itself makes it, with all logits at once."
        },
    )
    contenders: list[str] | None = field(
        default=None,
        metadata={
            "help": "Ways of training: [lora/]NAME[*QUERIES][:PLACEMENT], NAME a method, forward, as-written (MeZO's "
            "own code), sgd or adamw."
        },
    )
    device: str | None = field(default=None, metadata={"help": "Default: cuda if there is one, else cpu."})

    def workload(self) -> Workload:
        """Return the model and its batch.

        Raises:
            ConfigError: A setting is unknown or out of range.
        """
        import torch

        from zoft.bench.step.workload import Workload

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Workload(self.model, self.dtype, self.batch_size, self.length, self.loss, device)

    def names(self) -> list[str]:
        """Return the names of the contenders, each of which there is.

        Raises:
            ConfigError: One is unknown.
        """
        from zoft.bench.step.contenders import DEFAULT, contender

        names = self.contenders or list(DEFAULT)
        for name in names:
            contender(name)
        return names
