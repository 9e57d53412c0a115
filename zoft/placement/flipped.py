"""What a module's output gains when each example has weights of its own, moved by signs times one noise.

Shapes: n rows of a batch, B examples, ``n / B`` rows each, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zoft.directions import FlipoutDirections
from zoft.errors import PlacementError
from zoft.noise import Term
from zoft.parameters import Trainable
from zoft.placement.wrapping import Forward
from zoft.storage import Slot

# Rows of a large matrix that are made at once.
_BLOCK_BYTES = 8 * 2**20
_OTHERWISE = "Leave it out (exclude=[...]), or use a method with one direction for the whole batch (mezo, fzoo, ...)."


@dataclass(frozen=True)
class Flip:
    """The offsets of one forward.

    Attributes:
        terms: ``c z_i`` of each example, with one c for all.
        rows: n, the first dimension of what examples are computed from.
    """

    terms: Sequence[Term]
    rows: int

    @property
    def scale(self) -> float:
        """Return c."""
        return self.terms[0].coefficient

    @property
    def step(self) -> int:
        """The step whose noise it is."""
        return self.terms[0].step

    def spread(self, signs: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Lay examples' signs, B of ``[size, 1]``, over the last dimension of a tensor ``[k n, ..., size]``."""
        stacked = torch.stack([one.view(-1) for one in signs]).to(like.device, like.dtype)
        each = stacked.repeat_interleave(len(like) // len(signs), 0)
        return each.view(len(like), *[1] * (like.ndim - 2), -1)

    def widen(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give each row its own copy of what all share (position ids of shape ``[1, ...]``)."""
        return tensor.expand(self.rows, *tensor.shape[1:]) if len(tensor) == 1 else tensor


class Flipped:
    """A module's forward, with what the examples' own weights add."""

    def __init__(
        self,
        module: nn.Module,
        owned: Mapping[Slot, Trainable],
        names: Mapping[Slot, str],
        directions: FlipoutDirections,
    ) -> None:
        """Look at what the module holds.

        Raises:
            PlacementError: If nothing is known of this kind of module.
        """
        self._module, self._directions = module, directions
        self._name = ", ".join(names[slot] for slot in owned)
        trained = {slot.attribute: trainable.number for slot, trainable in owned.items() if slot.module is module}
        self._weight, self._bias = trained.get("weight"), trained.get("bias")
        self._multiplies = self._weight is not None and module.get_parameter("weight").ndim == 2
        scales = all(slot.parameter.ndim == 1 for slot in owned)
        if len(trained) < len(owned) or not {"weight", "bias"} >= set(trained) or not (self._multiplies or scales):
            raise PlacementError(
                f"a direction for each example cannot be given to {self._name}, held by a {type(module).__name__}: "
                f"known are linear maps, embeddings and normalisations. {_OTHERWISE}"
            )

    def __call__(self, flip: Flip, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Return the output for the examples' own weights."""
        if self._weight is not None and self._multiplies:
            with _Uses(self, flip):
                output: torch.Tensor = original(*args, **kwargs)
        else:
            output = flip.widen(original(*args, **kwargs)).clone()
        if len(output) % len(flip.terms):
            raise PlacementError(
                f"the output of the {type(self._module).__name__} that holds {self._name} has {len(output)} rows, no "
                f"multiple of {len(flip.terms)} examples. {_OTHERWISE}"
            )
        if self._weight is not None and not self._multiplies:
            self._scale(flip, original, args, kwargs, output)
        if self._bias is not None:
            bias, number = self._module.get_parameter("bias").data, self._bias
            u = self._directions.noise(flip.step, number, bias)
            output = flip.widen(output)
            output = output + flip.scale * self._rows(flip, number, output, 0, len(bias)) * u
        return output

    def _rows(self, flip: Flip, number: int, like: torch.Tensor, low: int, high: int) -> torch.Tensor:
        return flip.spread([self._directions.rows(term, number, low, high) for term in flip.terms], like)

    def _columns(self, flip: Flip, number: int, like: torch.Tensor) -> torch.Tensor:
        return flip.spread([self._directions.columns(term, number) for term in flip.terms], like)

    def linear(self, flip: Flip, inputs: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Add ``c r_i * U (s_i * x_i)``, a block of rows of U at a time."""
        assert self._weight is not None
        rows, width = weight.shape
        inputs, output = flip.widen(inputs), flip.widen(output).clone()
        signed = inputs * self._columns(flip, self._weight, inputs)
        step = max(1, _BLOCK_BYTES // (width * weight.element_size()))
        for low in range(0, rows, step):
            high = min(low + step, rows)
            part = nn.functional.linear(
                signed, self._directions.noise(flip.step, self._weight, weight[low:high], low * width)
            )
            part *= self._rows(flip, self._weight, part, low, high)
            output[..., low:high].add_(part, alpha=flip.scale)
        return output

    def transposed(self, flip: Flip, inputs: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Add the same for a weight that is stored as ``[in, out]``: ``c s_i * U^T (r_i * x_i)``."""
        assert self._weight is not None
        signed = inputs * self._rows(flip, self._weight, inputs, 0, len(weight))
        part = signed @ self._directions.noise(flip.step, self._weight, weight)
        return output + flip.scale * part * self._columns(flip, self._weight, part)

    def embedding(self, flip: Flip, ids: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Add ``c r_i[t] s_i * U[t]`` for a token t of example i."""
        assert self._weight is not None
        number, (rows, width) = self._weight, weight.shape
        ids, output = flip.widen(ids), flip.widen(output)
        used, places = torch.unique(ids, return_inverse=True)
        u = torch.stack([self._directions.noise(flip.step, number, weight[0], row * width) for row in used.tolist()])
        signs = [self._directions.rows(term, number, 0, rows) for term in flip.terms]
        own = flip.spread(signs, ids.reshape(len(ids), -1)).to(u.dtype).gather(1, ids.reshape(len(ids), -1))
        part = u[places.view(ids.shape)] * own.view(*ids.shape, 1)
        return output + flip.scale * part * self._columns(flip, number, part)

    def _scale(
        self, flip: Flip, original: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> None:
        """Add ``c r_i * (y(u) - y(0))`` for a module that scales by its weight: y is affine in it."""
        assert self._weight is not None
        parameter = self._module.get_parameter("weight")
        weight = parameter.data
        try:
            parameter.data = self._directions.noise(flip.step, self._weight, weight)
            part = flip.widen(original(*args, **kwargs))
            parameter.data = torch.zeros_like(weight)
            part = part - original(*args, **kwargs)
        finally:
            parameter.data = weight
        output.add_(part * self._rows(flip, self._weight, part, 0, len(weight)), alpha=flip.scale)

    def other(self, func: Any) -> PlacementError:
        """Return the error for a use of the weight of which nothing is known."""
        return PlacementError(f"{self._name}: used by {getattr(func, '__name__', func)}(). {_OTHERWISE}")


class _Uses(TorchFunctionMode):
    """Inside one module's forward: adds to what comes of the module's matrix, by whatever it is used for."""

    def __init__(self, flipped: Flipped, flip: Flip) -> None:
        super().__init__()
        self._flipped, self._flip = flipped, flip
        self._weight = flipped._module.get_parameter("weight")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not isinstance(output, torch.Tensor) or not any(a is self._weight for a in (*args, *kwargs.values())):
            return output  # of something else, or a shape, a dtype, a device
        known = {nn.functional.linear: self._flipped.linear, nn.functional.embedding: self._flipped.embedding}
        if func in known:
            return known[func](self._flip, args[0], self._weight.data, output)
        if func is torch.addmm:  # a bias, inputs [rows, in] and the weight [in, out]
            return self._flipped.transposed(self._flip, args[1], self._weight.data, output)
        raise self._flipped.other(func)
