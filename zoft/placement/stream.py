"""``stream``: perturbed weights exist one module at a time, in a scratch that is reused.

While an estimate runs, each module that owns trainable parameters has its ``forward`` wrapped: before it,
``w + s z`` is written to scratch and the parameter's storage is exchanged for it; after it, also after an
exception, the parameter's own storage comes back. The weights themselves are only ever read. Matrices of
Linear modules that are large are evaluated in blocks of rows, and of an Embedding only the rows looked up
are perturbed, so the scratch stays small.

On a GPU, where starting a kernel takes as long as it takes to perturb millions of weights, the weights of a module
around others are perturbed at once if they fit into the scratch together: a *unit*, such as a layer.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from zoft.directions import Combiner
from zoft.errors import ZoftWarning
from zoft.interrupts import uninterrupted
from zoft.noise import Span, Term
from zoft.parameters import Trainable
from zoft.placement.evaluated import Evaluated
from zoft.placement.protocol import Placement
from zoft.placement.ring import Kind, Ring, aligned, ring_numel
from zoft.placement.wrapping import Forward, owners_of, wrapped_forwards
from zoft.storage import Slot
from zoft.types import LossFn

# On a CPU a block that stays in the last-level cache is never written to memory and read back.
_CPU_BLOCK_BYTES = 8 * 2**20
# On a GPU the scratch may have this share of what is trained, as a layer of a large model does.
_GPU_SHARE = 1 / 32


class StreamPlacement(Evaluated):
    """Default for full fine-tuning: exact in any dtype, at the memory of inference plus a small scratch."""

    name = "stream"

    def __init__(
        self,
        model: nn.Module,
        trainables: Sequence[Trainable],
        directions: Combiner,
        *,
        scratch_bytes: int,
        units: bool = True,
    ) -> None:
        """Make a placement that nothing is proved of.

        Args:
            model: The whole model.
            trainables: The parameters that are perturbed.
            directions: Where z comes from.
            scratch_bytes: See ``ZOConfig.scratch_mib``.
            units: Whether modules may be taken together on a GPU.
        """
        self._directions = directions
        self._scratch_bytes = scratch_bytes
        self._gpu_bytes = max(scratch_bytes, int(_GPU_SHARE * sum(t.parameter.nbytes for t in trainables)))
        self._rings: dict[tuple[int, Kind], Ring] = {}
        self._depth = 0
        self._active: set[int] = set()  # ids of the parameters that are swapped at this moment
        self._terms: Sequence[Term] = ()
        self._called: set[nn.Module] = set()
        self._model = model
        self._trainables = trainables
        self._owners, self._names = owners_of(model, trainables)
        self._may_have_units = units
        self._units: dict[nn.Module, list[nn.Module]] = {}  # and the owners inside; found at each new device
        self._units_for: torch.device | None = None
        self._within: set[nn.Module] = set()  # owners whose unit runs at this moment
        self._made: dict[tuple[nn.Module, int], _Swap] = {}  # of units at a depth, for the length of a session
        self._swaps: list[_Swap] = []  # in force at this moment, inner ones last

    # --- the placement protocol -------------------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """See :class:`zoft.placement.Placement`."""
        device = self._trainables[0].slot.parameter.device
        if self._units_for != device:
            self._units, self._units_for = self._found_units(), device
        with wrapped_forwards(list({**self._owners, **self._units}), self._wrapped):
            try:
                yield
            finally:
                with uninterrupted():
                    # Usually nothing is left; after a Ctrl-C while weights came back, something may be.
                    for swap in reversed(self._swaps):
                        swap.undo()
                    for state in (self._swaps, self._active, self._within):
                        state.clear()
                    self._made.clear()  # it holds weights, which may move elsewhere between steps
                    self._depth = 0

    @contextmanager
    def at(self, terms: Sequence[Term]) -> Iterator[None]:
        """See :class:`zoft.placement.evaluated.Evaluated`."""
        outer = self._terms, self._depth
        self._terms, self._depth = terms, 0
        try:
            yield
        finally:
            self._terms, self._depth = outer

    def proved(self, loss_fn: LossFn) -> Placement | None:
        """See :mod:`zoft.placement.reach`."""
        from zoft.placement.reach import Unscrambling, prove_reach

        # What each module's own forward is enough for, a unit's around it is too.
        probe = StreamPlacement(
            self._model, self._trainables, Unscrambling(), scratch_bytes=self._scratch_bytes, units=False
        )
        otherwise = (
            "Use placement='snapshot' (exact, one more copy of the trained weights), or 'auto', which falls back to it."
        )
        return self if prove_reach(probe, self._trainables, loss_fn, otherwise) else None

    def uncalled(self) -> list[str]:
        """Names of parameters in modules that have not run since this object was made."""
        return [
            self._names[slot] for module, owned in self._owners.items() if module not in self._called for slot in owned
        ]

    def unused(self) -> list[str]:
        """Names of parameters none of whose owners has run since this object was made; none of a compiled model.

        What ``torch.compile`` made runs without a call that could be noted.
        """
        if any(
            module._compiled_call_impl is not None or "_orig_mod" in module._modules for module in self._model.modules()
        ):
            return []
        used = {t.number for module, owned in self._owners.items() if module in self._called for t in owned.values()}
        return [t.name for t in self._trainables if t.number not in used]

    def extra_bytes(self) -> int:
        """See :class:`zoft.placement.evaluated.Evaluated`: the scratch that the largest module of each depth needs."""
        units = self._found_units()
        inside = {owner for owners in units.values() for owner in owners}
        around = {**self._owners, **units}
        depths = Counter(inner for module in around for inner in module.modules() if inner is not module)
        needed: dict[tuple[int, Kind], int] = {}

        def need(depth: int, numel: int, weight: torch.Tensor) -> None:
            place = depth, Kind(weight.device, weight.dtype)
            needed[place] = max(needed.get(place, 0), numel)

        for unit, owners in units.items():
            whole = [use for owner in owners for use in self._uses(owner)]
            for use in whole:
                need(depths[unit], sum(aligned(other.parameter.numel()) for other in whole), use.parameter)
        for module in self._owners:
            if module in inside:
                continue
            whole, sliced = self._split(module, self._uses(module))
            for use in whole:  # of one type and device, as a rule
                need(depths[module], sum(aligned(other.parameter.numel()) for other in whole), use.parameter)
            for use in sliced:
                if isinstance(module, nn.Linear):
                    size = self.block_bytes(use.parameter.device)
                    need(depths[module] + 1, size // use.parameter.element_size(), use.parameter)
        return sum(
            ring_numel(numel, kind, self._scratch_bytes) * kind.dtype.itemsize for (_, kind), numel in needed.items()
        )

    # --- units ------------------------------------------------------------------------------------------

    def unit_bytes(self, device: torch.device) -> int:
        """Size in bytes up to which the weights of a module and of those inside it are perturbed at once."""
        return self._gpu_bytes if self._may_have_units and device.type != "cpu" else 0

    def _found_units(self) -> dict[nn.Module, list[nn.Module]]:
        """Return the largest modules whose weights fit into the scratch together, with the owners inside each."""
        units: dict[nn.Module, list[nn.Module]] = {}
        taken: set[nn.Module] = set()
        for module in self._model.modules():  # what is around others comes before these
            if module in taken or type(module).forward is nn.Module.forward:  # a list of modules is never called
                continue
            owners = [inner for inner in module.modules() if inner in self._owners and self._is_movable(inner)]
            own_too = module not in self._owners or module in owners
            if len(owners) > 1 and own_too and not taken.intersection(owners) and self._fits(owners):
                units[module] = owners
                taken.update(module.modules())
        return units

    def _is_movable(self, owner: nn.Module) -> bool:
        """Whether all of a module's trained weights are there, whole, and are not perturbed where they are used."""
        uses = self._uses(owner)
        there = all(slot.keeper is None and not slot.is_sharded for slot, _ in _held(self._owners[owner]))
        return there and not self._split(owner, uses)[1]

    def _fits(self, owners: Sequence[nn.Module]) -> bool:
        parameters = [use.parameter for owner in owners for use in self._uses(owner)]
        sizes = sum(aligned(parameter.numel()) * parameter.element_size() for parameter in parameters)
        return all(sizes <= self.unit_bytes(parameter.device) for parameter in parameters)

    def _uses(self, owner: nn.Module) -> list[_Use]:
        owned = self._owners[owner]
        return [_Use(parameter, owned[slot]) for slot, parameter in _held(owned)]

    # --- one module's forward ---------------------------------------------------------------------------

    def _wrapped(self, module: nn.Module, original: Forward) -> Forward:
        if module in self._units:
            return self._around_unit(module, self._units[module], original)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._called.add(module)
            if not self._terms or module in self._within:
                return original(*args, **kwargs)
            # A tied parameter may be swapped already, by a module around this one.
            uses = [use for use in self._uses(module) if id(use.parameter) not in self._active]
            whole, sliced = self._split(module, uses)
            with self._perturbed(self._swap(whole)) as buffers:
                if sliced:
                    with _Sliced(self, sliced):
                        output = original(*args, **kwargs)
                else:
                    output = original(*args, **kwargs)
                return _unaliased(output, buffers) if buffers else output

        return forward

    def _around_unit(self, module: nn.Module, owners: Sequence[nn.Module], original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if module in self._owners:
                self._called.add(module)
            if not self._terms or not self._within.isdisjoint(owners):  # called from within itself
                return original(*args, **kwargs)
            with self._perturbed(self._unit_swap(module, owners)) as buffers:
                try:
                    self._within.update(owners)
                    return _unaliased(original(*args, **kwargs), buffers)
                finally:
                    self._within.difference_update(owners)

        return forward

    def _split(self, module: nn.Module, uses: list[_Use]) -> tuple[list[_Use], list[_Use]]:
        """Part the module's parameters into those swapped whole and those perturbed where they are used."""
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            return uses, []
        weight = module.weight
        block = self.block_bytes(weight.device)
        limit = block if isinstance(module, nn.Linear) else 0
        if weight.numel() * weight.element_size() <= limit:
            return uses, []
        return [use for use in uses if use.parameter is not weight], [use for use in uses if use.parameter is weight]

    def block_bytes(self, device: torch.device) -> int:
        """Size in bytes up to which a matrix, or a block of its rows, is perturbed at once."""
        return min(self._scratch_bytes, _CPU_BLOCK_BYTES) if device.type == "cpu" else self._gpu_bytes

    def _unit_swap(self, module: nn.Module, owners: Sequence[nn.Module]) -> _Swap:
        """Return a unit's exchange, made once a session: with many small weights that takes longer than the noise."""
        swap = self._made.get((module, self._depth))
        if swap is None or not self._active.isdisjoint(swap.ids):
            uses = {id(use.parameter): use for owner in owners for use in self._uses(owner)}
            inactive = [use for key, use in uses.items() if key not in self._active]
            swap = self._swap(inactive)
            # Else it is for this once; and a strided weight's row-major copy should not outlive its forward.
            if len(inactive) == len(uses) and all(w.is_contiguous() for w in swap.weights):
                self._made[module, self._depth] = swap
        return swap

    def _swap(self, uses: Sequence[_Use]) -> _Swap:
        """Return the exchange of weights for places in the scratch."""
        weights = [use.parameter.data for use in uses]
        of_kind: dict[Kind, list[int]] = {}
        for place, weight in enumerate(weights):
            of_kind.setdefault(Kind(weight.device, weight.dtype), []).append(place)
        outs, buffers = list(weights), []
        for kind, places in of_kind.items():
            shapes = tuple(weights[place].shape for place in places)
            ring = self._ring(sum(aligned(shape.numel()) for shape in shapes), kind)
            buffers.append(ring.buffer)
            for place, out in zip(places, ring.take_shaped(shapes), strict=True):
                outs[place] = out
        parameters = [use.parameter for use in uses]
        spans = [
            Span(out, weight.contiguous(), use.trainable.number)
            for out, weight, use in zip(outs, weights, uses, strict=True)
        ]
        return _Swap(parameters, weights, spans, buffers, frozenset(map(id, parameters)))

    @contextmanager
    def _perturbed(self, swap: _Swap) -> Iterator[list[torch.Tensor]]:
        """Hold the parameters at perturbed values; give the buffers that these are in."""
        if swap.spans:
            self._directions.combine(swap.spans, self._terms)
        self._swaps.append(swap)
        self._depth += 1
        self._active |= swap.ids
        try:
            for parameter, span in zip(swap.parameters, swap.spans, strict=True):
                parameter.data = span.out
            yield swap.buffers
        finally:
            swap.undo()
            self._active -= swap.ids
            self._depth -= 1
            self._swaps.pop()

    def scratch(self, numel: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Return a flat buffer of ``numel`` elements, the caller's until the next call at this nesting depth."""
        return self._ring(numel, Kind(device, dtype)).take(numel)

    def _ring(self, numel: int, kind: Kind) -> Ring:
        ring = self._rings.get((self._depth, kind))
        if ring is None or ring.buffer.numel() < numel:
            size = numel * kind.dtype.itemsize
            if size > max(self._scratch_bytes, self.block_bytes(kind.device)):
                warnings.warn(
                    f"placement 'stream' needs {size / 2**20:.0f} MiB of scratch for one module whose weights it "
                    f"cannot take in row blocks, more than scratch_mib={self._scratch_bytes / 2**20:.0f}.",
                    ZoftWarning,
                    stacklevel=2,
                )
            buffer = torch.empty(ring_numel(numel, kind, self._scratch_bytes), dtype=kind.dtype, device=kind.device)
            ring = self._rings[self._depth, kind] = Ring(buffer)
            self._made.clear()  # of places in the buffer that this one replaces
        return ring

    # --- matrices that are never perturbed whole --------------------------------------------------------

    def linear(
        self, trainable: Trainable, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """``inputs [..., in] @ (weight [out, in] + s z)^T + bias``, a block of rows at a time."""
        rows, width = weight.shape
        step = max(1, self.block_bytes(weight.device) // (width * weight.element_size()))
        base = weight.contiguous()
        output = None
        for low in range(0, rows, step):
            high = min(low + step, rows)
            block = self.scratch((high - low) * width, weight.device, weight.dtype).view(high - low, width)
            self._directions.combine([Span(block, base[low:high], trainable.number, low * width)], self._terms)
            part = nn.functional.linear(inputs, block, None if bias is None else bias[low:high])
            if output is None:
                output = part.new_empty(*part.shape[:-1], rows)
            output[..., low:high] = part
        assert output is not None
        return output

    def embedding(self, trainable: Trainable, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Rows ``ids [...]`` of ``weight [rows, width] + s z``: ``[..., width]``."""
        rows, width = weight.shape
        flat = ids.reshape(-1)
        _require_rows(flat, rows, trainable.name)
        output = weight.new_empty(flat.numel(), width)
        self._directions.combine_rows(output, weight.contiguous(), flat, trainable.number, self._terms)
        return output.view(*ids.shape, width)

    def whole(self, trainable: Trainable, weight: torch.Tensor) -> torch.Tensor:
        """A fresh ``weight + s z``, for a use that neither blocks nor rows can serve."""
        warnings.warn(
            f"placement 'stream' perturbs {trainable.name} whole: its module uses it other than by linear() or "
            f"embedding(), which takes {weight.numel() * weight.element_size() / 2**20:.0f} MiB of extra memory.",
            ZoftWarning,
            stacklevel=2,
        )
        out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        self._directions.combine([Span(out, weight.contiguous(), trainable.number)], self._terms)
        return out


class _Swap(NamedTuple):
    """Parameters, their own values, where perturbed ones are written, the buffers of these places, and their ids."""

    parameters: list[nn.Parameter]
    weights: list[torch.Tensor]
    spans: list[Span]
    buffers: list[torch.Tensor]
    ids: frozenset[int]

    def undo(self) -> None:
        """Give the parameters their own values back."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter.data = weight


class _Use(NamedTuple):
    """A parameter as one module holds it during one forward, and whose values it has."""

    parameter: nn.Parameter
    trainable: Trainable


def _held(slots: Iterable[Slot]) -> list[tuple[Slot, nn.Parameter]]:
    return [(s, parameter) for s in slots if (parameter := s.module._parameters[s.attribute]) is not None]


class _Sliced(TorchFunctionMode):
    """Inside one module's forward: catch the uses of a large matrix and perturb only what each use reads.

    Works on the use, not on the module's class, so subclasses that scale, shift or cast around it are right.
    """

    def __init__(self, stream: StreamPlacement, uses: Sequence[_Use]) -> None:
        super().__init__()
        self._stream = stream
        self._by_id = {id(use.parameter): use.trainable for use in uses}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear:
            inputs, weight, bias = _bound(("input", "weight", "bias"), args, kwargs)
            if id(weight) in self._by_id:
                return self._stream.linear(self._by_id[id(weight)], inputs, weight.data, bias)
        elif func is nn.functional.embedding:
            ids, weight, _, max_norm = _bound(("input", "weight", "padding_idx", "max_norm"), args, kwargs)
            if id(weight) in self._by_id and max_norm is None:
                return self._stream.embedding(self._by_id[id(weight)], ids, weight.data)
        used = [a for a in (*args, *kwargs.values()) if id(a) in self._by_id]
        result = func(*args, **kwargs)
        if not used or not isinstance(result, torch.Tensor):
            return result  # a shape, a dtype, a device
        noisy = {id(a): self._stream.whole(self._by_id[id(a)], a.data) for a in used}
        return func(*(noisy.get(id(a), a) for a in args), **{name: noisy.get(id(a), a) for name, a in kwargs.items()})


def _require_rows(ids: torch.Tensor, rows: int, name: str) -> None:
    """Refuse row numbers that there are not; on a GPU as torch does, by an assertion that nothing waits for."""
    if ids.is_cuda:
        torch._assert_async(((ids >= 0) & (ids < rows)).all(), f"embedding {name} has {rows} rows, and an id is none")
    elif ids.numel() and not (0 <= int(ids.min()) and int(ids.max()) < rows):
        raise IndexError(f"embedding {name} has {rows} rows; the ids span {int(ids.min())} to {int(ids.max())}.")


def _bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def _unaliased(output: Any, buffers: Sequence[torch.Tensor]) -> Any:
    """Copy those tensors of a module's output that are views of its scratch, which is about to be reused."""
    storages = {buffer.untyped_storage().data_ptr() for buffer in buffers}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone() if tensor.untyped_storage().data_ptr() in storages else tensor

    return tree_map_only(torch.Tensor, copied, output) if not isinstance(output, torch.Tensor) else copied(output)
