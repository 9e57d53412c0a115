"""Inside a forward of several points side by side: each point's rows meet its own weights, however these are used.

What is computed from the repeated inputs is *wide*: its first dimension holds the rows of the first point, then those
of the second, and so on. Results without a trained parameter in them are computed as always. An operation that has one,
on wide tensors, is done point by point, or by a batched product where it is a linear map. One that has only other
tensors (a cast, a transposed weight, embedded positions that all rows share) gives a value for each point, for which
the value at the unmoved weights stands until it meets something wide.

Shapes: P points; wide tensors ``[P n, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from zoft.errors import PlacementError
from zoft.parameters import Trainable
from zoft.placement.batched.weights import PointWeights

_MARK = "_zoft_wide"


def mark(tensor: torch.Tensor) -> torch.Tensor:
    """Note that a tensor is wide."""
    setattr(tensor, _MARK, True)
    return tensor


def is_wide(value: Any) -> bool:
    """Whether it is a wide tensor."""
    return isinstance(value, torch.Tensor) and getattr(value, _MARK, False)


class Uses(TorchFunctionMode):
    """Watches the operations of a wide forward."""

    def __init__(self, trainables: Sequence[Trainable], weights: PointWeights, points: int, rows: int) -> None:
        """Look up the trained parameters.

        Args:
            trainables: Those of the run.
            weights: Theirs at the points.
            points: P.
            rows: n, of each point.
        """
        super().__init__()
        self._weights, self._points, self._all_rows = weights, points, points * rows
        self._trained = {id(t.parameter): t for t in trainables}
        # A value for each point, by the id of the tensor that stands for it: kept, so that its id stays its own.
        self._apart: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        wide = own = False
        for value in _values(args, kwargs):
            own = own or id(value) in self._trained or id(value) in self._apart
            wide = wide or is_wide(value)
        if not own:
            result = func(*args, **kwargs)
            if not wide or isinstance(result, torch.Size):
                return result
            if isinstance(result, torch.Tensor):
                return mark(result)
            tree_map_only(torch.Tensor, mark, args[0] if func is torch.Tensor.__setitem__ else result)
            return result
        if not wide:
            if func is not nn.functional.embedding or not self._is_repeated(args[0]):
                return self._for_each(func, args, kwargs)
            mark(args[0])
        known = _KNOWN.get(func)
        result = None if known is None else known(self, *args, **kwargs)
        return mark(result) if result is not None else self._point_by_point(func, args, kwargs)

    # --- any operation ------------------------------------------------------------------------------------

    def _for_each(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a value for each point, and return one to stand for them."""
        stand_in = func(*args, **kwargs)
        tensors, _ = tree_flatten(stand_in)
        if not any(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return stand_in  # a shape, a dtype, a device
        if any(tensor is value and self._rows(value) is None for tensor in tensors for value in _values(args, kwargs)):
            raise PlacementError(
                f"placement 'batched': {getattr(func, '__name__', func)}() writes a trained weight into a tensor that "
                "all rows share. Use placement='auto'."
            )
        each = [tree_flatten(func(*own, **named))[0] for own, named in self._split(args, kwargs)]
        for number, tensor in enumerate(tensors):
            if isinstance(tensor, torch.Tensor):
                self._apart[id(tensor)] = tensor, [results[number] for results in each]
        return stand_in

    def _point_by_point(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute each point's rows, and return them together."""
        parts: dict[int, torch.Tensor] = {}  # the rows of wide arguments, and whose they are
        each = []
        for own, named in self._split(args, kwargs):
            for whole, part in zip(_values(args, kwargs), _values(own, named), strict=True):
                if is_wide(whole):
                    parts[id(part)] = whole
            each.append((own, named))
        results = [tree_flatten(func(*own, **named)) for own, named in each]
        spec = results[0][1]
        joined: list[Any] = []
        for leaves in zip(*(leaves for leaves, _ in results), strict=True):
            if not isinstance(leaves[0], torch.Tensor):
                joined.append(leaves[0])
            elif id(leaves[0]) in parts:  # in place
                joined.append(parts[id(leaves[0])])
            else:
                joined.append(mark(torch.cat(leaves)))
        return tree_unflatten(joined, spec)

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Yield the arguments of each point."""
        leaves, spec = tree_flatten((args, kwargs))
        rows = [self._rows(leaf) for leaf in leaves]
        for place in range(self._points):
            yield tree_unflatten([row[place] if row else leaf for row, leaf in zip(rows, leaves, strict=True)], spec)

    def _rows(self, value: Any) -> Sequence[torch.Tensor] | None:
        """Return what an argument is at each point; None if it is the same at all."""
        if is_wide(value):
            return self._by_point(value).unbind(0)
        if id(value) in self._apart:
            return self._apart[id(value)][1]
        trainable = self._trained.get(id(value))
        return None if trainable is None else self._weights.whole(trainable).unbind(0)

    def _is_repeated(self, ids: torch.Tensor) -> bool:
        """Whether indices are the same for all points, though they were made anew: of the batch's size, not from it."""
        if ids.ndim < 2 or len(ids) != self._all_rows:
            return False
        by_point = ids.reshape(self._points, -1)
        return torch.equal(by_point, by_point[:1].expand_as(by_point))

    def _by_point(self, wide: torch.Tensor) -> torch.Tensor:
        """View ``[P n, ...]`` as ``[P, n, ...]``."""
        if not wide.ndim or len(wide) % self._points:
            raise PlacementError(
                f"placement 'batched': a tensor of shape {list(wide.shape)} meets a trained weight, and its first "
                f"dimension does not hold the rows of {self._points} points side by side. Use placement='auto'."
            )
        # Not reshaped: parts that are written to must be views.
        return wide.view(self._points, -1, *wide.shape[1:])

    # --- linear maps ----------------------------------------------------------------------------------------

    def _linear(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Multiply by ``weight^T [in, out]`` and add the bias."""
        return self._product(input, weight, bias, lambda x, shared: nn.functional.linear(x, weight, shared), True)

    def _addmm(self, input: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor | None:
        """Multiply ``mat1`` by the weight ``mat2 [in, out]`` and add the bias ``input``."""

        def shared(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return x @ mat2 if bias is None else torch.addmm(bias, x, mat2)

        return self._product(mat1, mat2, input, shared, False)

    def _product(
        self,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        shared: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        transposed: bool,
    ) -> torch.Tensor | None:
        """Return the outputs of a linear map; None where it is none of wide inputs by a parameter.

        Args:
            inputs: ``[P n, ..., in]``.
            weight: ``[out, in]`` if transposed, else ``[in, out]``.
            bias: ``[out]``.
            shared: The map from inputs and a bias by the weight as it is.
            transposed: How the weight is stored.
        """
        trained = self._trained.get(id(weight))
        if not is_wide(inputs) or is_wide(bias) or (trained is None and self._rows(weight) is not None):
            return None
        own_bias = None if bias is None else self._rows(bias)
        rows = self._by_point(inputs).flatten(1, -2)  # [P, rows, in]
        factors = None if trained is None else self._weights.factors(trained)
        if trained is None or factors is not None:
            outputs = shared(inputs, bias if own_bias is None else None).contiguous()
            flat = outputs.view(len(rows), -1, outputs.shape[-1])
            if own_bias is not None:
                flat += torch.stack(list(own_bias)).unsqueeze(1).to(flat.dtype)
            if factors is not None:
                first, second = (factors.right, factors.left) if transposed else (factors.left, factors.right)
                _add_product(flat, torch.bmm(rows, first), second)
            return outputs
        biases = None
        if bias is not None:
            biases = (bias.expand(len(rows), -1) if own_bias is None else torch.stack(list(own_bias))).unsqueeze(1)
        blocks = self._weights.in_blocks(trained)
        flat = _by_rows(rows, blocks, biases) if transposed else _by_columns(rows, blocks, biases)
        return flat.view(*inputs.shape[:-1], flat.shape[-1])

    def _embedding(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        *unused: Any,
        **also_unused: Any,
    ) -> torch.Tensor | None:
        """Look up rows of the weight ``[rows, width]``; None where they are changed besides."""
        trained = self._trained.get(id(weight))
        if trained is None or max_norm is not None:
            return None
        ids = self._by_point(input).flatten(1)  # [P, n]
        factors = self._weights.factors(trained)
        if factors is None:
            return self._weights.rows(trained, ids).view(*input.shape, weight.shape[1])
        outputs = nn.functional.embedding(input, weight)
        flat = outputs.view(*ids.shape, weight.shape[1])
        lefts = torch.stack([left[of_point] for left, of_point in zip(factors.left, ids, strict=True)])
        _add_product(flat, lefts, factors.right)
        return outputs


# Not held by each object, which would hold itself, and the copies of weights, until they are collected as garbage.
_KNOWN: dict[Any, Callable[..., torch.Tensor | None]] = {
    nn.functional.linear: Uses._linear,
    torch.addmm: Uses._addmm,
    nn.functional.embedding: Uses._embedding,
}


def _by_rows(inputs: torch.Tensor, blocks: Iterator[torch.Tensor], biases: torch.Tensor | None) -> torch.Tensor:
    """Multiply ``[P, n, in]`` by the transpose of a weight ``[P, out, in]`` that comes in blocks of rows."""
    parts, low = [], 0
    for block in blocks:
        high = low + block.shape[1]
        bias = None if biases is None else biases[..., low:high]
        parts.append(_matmul(inputs, block.transpose(1, 2), bias))
        low = high
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _by_columns(inputs: torch.Tensor, blocks: Iterator[torch.Tensor], biases: torch.Tensor | None) -> torch.Tensor:
    """Multiply ``[P, n, in]`` by a weight ``[P, in, out]`` that comes in blocks of rows."""
    total, low = biases, 0
    for block in blocks:
        high = low + block.shape[1]
        total = _matmul(inputs[..., low:high], block, total)
        low = high
    assert total is not None
    return total


def _matmul(left: torch.Tensor, right: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
    return torch.bmm(left, right) if added is None else torch.baddbmm(added, left, right)


def _add_product(outputs: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add ``left [P, n, k] @ right^T [P, k, m]`` in place."""
    outputs.baddbmm_(left.to(outputs.dtype), right.to(outputs.dtype).transpose(1, 2))


def _values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """Yield arguments, and what lists among them hold."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value
