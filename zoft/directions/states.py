"""Numbers kept for each trained element, where a method needs them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zoft.noise import compute_dtype
from zoft.parameters import Trainable


class ElementStates:
    """Tensors of the shape of each weight's part that is held here, made when they are first asked for."""

    def __init__(self, count: int, start: float) -> None:
        """Keep ``count`` numbers for each element, all of which begin as ``start``."""
        self.count = count
        self._start = start
        self._tensors: dict[str, torch.Tensor] = {}

    def of(self, trainable: Trainable) -> torch.Tensor:
        """Return a weight's numbers, ``[count, *shape]``: float32, float64 for float64 weights; changed in place."""
        if trainable.name not in self._tensors:
            weight = trainable.stored().tensor
            shape = (self.count, *weight.shape)
            tensor = torch.full(shape, self._start, dtype=compute_dtype(weight), device=weight.device)
            self._tensors[trainable.name] = tensor
        return self._tensors[trainable.name]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors by the names of the weights."""
        return dict(self._tensors)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the tensors that :meth:`state_dict` returned, as copies."""
        self._tensors = {name: tensor.clone() for name, tensor in state.items()}
