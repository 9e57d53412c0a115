"""What a model said of each example, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Evaluation", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What a model made of one example.

    Attributes:
        expected: The accepted answers.
        predicted: What the model chose or wrote.
        right: Which of the example's options are right, empty where there are none to choose from.
        chosen: Which of them was chosen, None likewise.
        score: Its value of the score by which results are told, where that does not follow from what was said; the
            score of all is then the mean of these.
        loss: Cross-entropy, in nats: over the options, or of the first accepted answer's tokens (their mean).
    """

    expected: tuple[str, ...]
    predicted: str
    right: tuple[int, ...] = ()
    chosen: int | None = None
    loss: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over a data set.

    Attributes:
        scores: Figures by name, as plain JSON types: ``loss``, ``n``, and the task's metrics.
        predictions: One for each example, in the data set's order.
    """

    scores: dict[str, Any]
    predictions: Sequence[Prediction] = ()
