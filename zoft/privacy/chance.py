"""Random numbers that examples draw one after the other couple them: one more shifts those of all that follow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from zoft.errors import ConfigError


@contextmanager
def drawing_nothing(who: str) -> Iterator[None]:
    """Refuse what draws from a random stream that examples share.

    The streams have public seeds, so whoever knows them would know what an example's random numbers were with and
    without another one. Besides, checkpoints keep the streams' states, which would tell how many examples there were.

    Args:
        who: What runs inside, for the message.

    Raises:
        ConfigError: If torch's, NumPy's or Python's global stream moved.
    """
    before = _states()
    yield
    moved = [name for name, state in _states().items() if state != before[name]]
    if moved:
        raise ConfigError(
            f"{who} drew random numbers ({', '.join(moved)}), and examples that draw one after the other are not "
            "independent: one more would change all that follow. Leave random masks, augmentation and sampling out of "
            "a private run, or make them beforehand."
        )


def _states() -> dict[str, Any]:
    numpys = np.random.get_state(legacy=False)["state"]
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy.random": (numpys["pos"], numpys["key"].tobytes()),
        "random": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states
