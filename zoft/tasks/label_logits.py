"""Logits where labels are predicted, a few places of each row at a time, so that they never stand whole.

A model is run once. For the other places only what comes after its parts that do not hold the output layer is run again
(the output layer, a scale, a cap on the logits): those parts hand out what they have returned. So whatever a model does
to its logits is done by its own code. The first time that a model is taken in portions, one is compared with that of a
whole run.

Shapes: R rows, L tokens, T label positions in a row, t of them at a time, H hidden size, V vocabulary.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from zoft.errors import ConfigError, ZoftWarning
from zoft.placement.wrapping import Forward, wrapped_forwards

__all__ = ["TOLERANCE", "language_model", "logits_at", "of_logits", "output_layer"]

# Of logits, that are made at a time; noise for an output layer is made anew for each portion.
ROWS = 256  # or more, while they take at most
_SHARE = 1 / 16  # of what the weights take

Use = Callable[[Tensor, slice], Tensor]
"""``(logits [R * t, V], which of the T places) -> numbers [R, t, ...]``."""

# Of every single number, by the model's dtype; `zoft.placement.tolerance` is for losses and norms, which differ less,
# by the dtype of what is trained, which may be an adapter's.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_replays_rightly: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
_sizes: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
# Which parts were called, by the names of the arguments: with others, a model may call others.
_parts: weakref.WeakKeyDictionary[nn.Module, dict[frozenset[str], list[nn.Module]]] = weakref.WeakKeyDictionary()


def of_logits(model: nn.Module, inputs: Mapping[str, Any], positions: Tensor, use: Use) -> Tensor:
    """Apply a function to the logits at positions [R, T], a portion of the places at a time.

    A portion is `ROWS` rows of logits, more where these are small beside the weights.

    All are made at once where a gradient is asked for, which needs them all, and where weights are sharded, for then
    all processes must call the output layer equally often.

    Args:
        model: A language model of transformers, bare or wrapped.
        inputs: Its arguments.
        positions: Where, in each row; may count from the rows' ends.
        use: The function. It treats each place by itself.

    Returns:
        What it returns, for all places: [R, T, ...].

    Raises:
        ConfigError: The label positions of this model cannot be picked out.
    """
    rows, places = positions.shape
    base = language_model(model)
    width = max(1, _portion(base) // rows)
    whole = torch.is_grad_enabled() or _is_sharded(model)
    if places <= width or whole or not _replays_rightly.get(base, True):
        return use(logits_at(model, inputs, positions), slice(None))
    first, *others = (slice(low, min(low + width, places)) for low in range(0, places, width))
    with _Replay(base, frozenset(inputs)) as replay:
        values = [use(logits_at(model, inputs, positions[:, first]), first)]
        with replay.repeating() as again:
            for part in others:
                with _picked(base, positions[:, part]):
                    values.append(use(_two_dimensional(again(), base), part))
    if base not in _replays_rightly:
        want = use(logits_at(model, inputs, positions[:, others[0]]), others[0])
        _replays_rightly[base] = _same(values[1], want, TOLERANCE.get(base.dtype, 1e-2))
        if not _replays_rightly[base]:
            warnings.warn(
                f"{type(base).__name__} does not give the same logits if what comes before its output layer is not run "
                "again. They are made all at once from now on, which takes memory",
                ZoftWarning,
                stacklevel=2,
            )
            return use(logits_at(model, inputs, positions), slice(None))
    return torch.cat(values, dim=1)


def _is_sharded(model: nn.Module) -> bool:
    return torch.distributed.is_initialized() and any(isinstance(p, DTensor) for p in model.parameters())


def _portion(base: PreTrainedModel) -> int:
    """Return how many rows of logits are made at a time."""
    if base not in _sizes:
        _sizes[base] = sum(p.nbytes for p in base.parameters())
    row: int = base.config.get_text_config().vocab_size * base.dtype.itemsize
    return max(ROWS, int(_SHARE * _sizes[base]) // row)


def logits_at(model: nn.Module, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
    """Return the logits at positions [R, t] of rows, [R * t, V].

    Only those places reach the output layer, as one contiguous matrix: a strided slice would become a batched product
    that reads the vocabulary matrix once a row.

    Raises:
        ConfigError: The model computes its logits without calling its output layer.
    """
    base = language_model(model)
    with _picked(base, positions):
        return _two_dimensional(model(**inputs).logits, base)


def _two_dimensional(logits: Tensor, base: PreTrainedModel) -> Tensor:
    if logits.dim() != 2:
        raise ConfigError(
            f"{type(base).__name__} computes its logits without calling its output layer (got shape "
            f"{tuple(logits.shape)}, expected two dimensions), so the label positions cannot be picked out"
        )
    return logits


@contextmanager
def _picked(base: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Let only these places of the rows reach the output layer."""
    rows = torch.arange(positions.shape[0], device=positions.device).unsqueeze(1)  # [R, 1]

    def pick(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[rows, positions].reshape(-1, hidden.shape[-1]), *args[1:])

    handle = output_layer(base).register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


class _Replay(AbstractContextManager["_Replay"]):
    """Notes what a model's parts return before its output layer is called; then lets them return it again."""

    def __init__(self, base: PreTrainedModel, arguments: frozenset[str]) -> None:
        self._base, self._head, self._arguments = base, output_layer(base), arguments
        # The largest parts that do not hold the output layer; which are called only a run tells (some models call a
        # part of a part), so at first all are watched.
        known = _parts.setdefault(base, {}).get(arguments)
        self._parts = known or [m for m in base.modules() if self._head not in m.modules()]
        self._returned: dict[nn.Module, list[Any]] = {part: [] for part in self._parts}
        self._depth, self._is_past_head = 0, False
        self._left: dict[nn.Module, Iterator[Any]] | None = None  # while repeating
        self._called: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def __enter__(self) -> _Replay:
        self._hooks = [
            self._base.register_forward_pre_hook(self._note_call, with_kwargs=True),
            self._head.register_forward_pre_hook(self._note_head),
        ]
        self._wrapped = wrapped_forwards(self._parts, self._wrap)
        self._wrapped.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._wrapped.__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def repeating(self) -> Iterator[Callable[[], Tensor]]:
        """Give a function that calls the model as it was called, and returns its logits."""
        args, kwargs = self._called
        called = [part for part in self._parts if self._returned[part]]
        if len(called) == len(self._parts) or self._arguments not in _parts[self._base]:
            _parts[self._base][self._arguments] = called
        else:  # another path, or other parts: all are watched next time
            del _parts[self._base][self._arguments]

        def again() -> Tensor:
            self._left = {part: iter(returned) for part, returned in self._returned.items()}
            logits: Tensor = self._base(*args, **kwargs).logits
            return logits

        try:
            yield again
        finally:
            self._left = None

    def _note_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._called = args, kwargs

    def _note_head(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._is_past_head = True

    def _wrap(self, part: nn.Module, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._left is not None:
                for returned in self._left[part]:
                    return returned
                return original(*args, **kwargs)  # what comes after the output layer
            self._depth += 1
            try:
                returned = original(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0 and not self._is_past_head:  # else another part called it, or the logits went in
                self._returned[part].append(returned)
            return returned

        return forward


def _same(got: Tensor, want: Tensor, tolerance: float) -> bool:
    return bool(torch.isclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True).all())


def output_layer(base: PreTrainedModel) -> nn.Module:
    """Return the layer that makes logits.

    Raises:
        ConfigError: There is none.
    """
    head: nn.Module | None = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ConfigError(
            f"{type(base).__name__} has no language-model head (get_output_embeddings() is None); "
            "load a causal or masked language model"
        )
    return head


def language_model(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers inside what may be wrapped around it.

    Raises:
        ConfigError: There is none.
    """
    for module in model.modules():  # the first one, or the second or third inside a wrapper
        if isinstance(module, PreTrainedModel):
            return module
    raise ConfigError(f"expected a language model of transformers, got {type(model).__name__}")
