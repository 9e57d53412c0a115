"""Where a weight's numbers really are: in its module, on another process, in RAM, or in a file.

Usually a module's parameter is the weight. Two things that others do to a model change that. FSDP2 and tensor
parallelism replace a parameter by a ``DTensor``, of which this process holds a part. Accelerate's offloading
leaves an empty parameter on the device ``meta`` and keeps the numbers in RAM or in a file, from where its hooks
fetch them for the length of one forward.

So a weight is addressed by the module that owns it and looked up when it is needed: see :class:`Slot`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import nn

from zoft.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Stored(NamedTuple):
    """The part of a weight that this process holds.

    Attributes:
        tensor: The part's numbers; writing here changes the weight.
        shape: Shape of the whole weight.
        offset: Index, in the whole weight, of the part's first element.
    """

    tensor: torch.Tensor
    shape: torch.Size
    offset: tuple[int, ...]

    def runs(self, tensor: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
        """Cut a tensor of this part's shape into runs of consecutive elements of the whole weight.

        Args:
            tensor: Row-major, of the shape of ``self.tensor``.

        Returns:
            ``(run, start)``: views of ``tensor``, with the row-major number of each one's first element.
        """
        if tensor.shape[1:] == self.shape[1:]:
            return [(tensor, self.offset[0] * math.prod(self.shape[1:]) if self.offset else 0)]
        # Columns of a matrix: each row is a run of its own.
        (first_row, first_column), width = self.offset, self.shape[1]
        return [(row, (first_row + number) * width + first_column) for number, row in enumerate(tensor)]


@dataclass(frozen=True)
class Slot:
    """A parameter's place in its model.

    Attributes:
        module: The module that owns it.
        attribute: Its name there.
        keeper: The Accelerate hook that keeps the numbers outside the module, if there is one.
        key: The parameter's name in that hook's ``weights_map``.
    """

    module: nn.Module
    attribute: str
    keeper: Any = None
    key: str = ""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the module holds at this moment."""
        parameter = self.module._parameters[self.attribute]
        assert parameter is not None
        return parameter

    def stored(self) -> Stored:
        """Look up the numbers.

        Raises:
            ConfigError: If they are kept in a way in which they cannot be changed in place.
        """
        parameter = self.parameter
        if self.keeper is not None:
            tensor = self._kept_for_writing()
            return Stored(tensor, tensor.shape, (0,) * tensor.ndim)
        if _is_dtensor(parameter):
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            if shape[1:] != parameter.shape[1:] and parameter.ndim != 2:
                raise ConfigError(
                    f"{self.attribute} of {type(self.module).__name__}, of shape {list(parameter.shape)}, is sharded "
                    f"as {parameter.placements}; zoft trains weights sharded by their first dimension, and matrices "
                    "sharded by either."
                )
            return Stored(parameter.to_local().detach(), parameter.shape, offset)
        if parameter.is_meta:
            raise ConfigError(
                f"{self.attribute} of {type(self.module).__name__} {list(parameter.shape)} is on the device 'meta' and "
                "has no numbers. If it is an adapter's, on an offloaded layer: make the adapter first, then offload."
            )
        return Stored(parameter.data, parameter.shape, (0,) * parameter.ndim)

    @property
    def is_sharded(self) -> bool:
        """Whether this process may hold only a part."""
        return _is_dtensor(self.parameter)

    def whole(self) -> torch.Tensor:
        """Return all of the weight, for reading; of a sharded one a copy, for which all processes must ask."""
        if self.keeper is not None:
            weights, key = _entry(self.keeper.weights_map, self.key)
            tensor: torch.Tensor = weights[key]
            return tensor
        parameter = self.parameter
        return (parameter.full_tensor() if _is_dtensor(parameter) else parameter).detach()

    def identity(self) -> object:
        """Return something that is equal for two slots if and only if they hold the same weight (tied weights)."""
        if self.keeper is None:
            return id(self.parameter)
        weights, key = _entry(self.keeper.weights_map, self.key)
        file = _file(weights, key)
        if file is not None:
            return file
        tensor = weights[key]
        return (tensor.data_ptr(), tensor.shape, tensor.stride())

    def _kept_for_writing(self) -> torch.Tensor:
        weights, key = _entry(self.keeper.weights_map, self.key)
        file = _file(weights, key)
        if file is None:
            tensor: torch.Tensor = weights[key]
            return tensor
        if file.path.suffix != ".dat":
            raise ConfigError(
                f"{key} is offloaded to {file.path}, the checkpoint itself, which training would change. Leave this "
                "weight frozen, or load the model into RAM and offload it with accelerate.disk_offload or cpu_offload."
            )
        entry = weights.index[key]  # type: ignore[attr-defined]
        dtype = getattr(torch, entry["dtype"])
        # NumPy has no bfloat16; Accelerate stores its bits.
        stored_as = "int16" if dtype is torch.bfloat16 else entry["dtype"]
        memory = np.memmap(file.path, dtype=stored_as, mode="r+", shape=tuple(entry["shape"]))
        return torch.from_numpy(memory).view(dtype)


def _is_dtensor(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    # Whoever made one has loaded this module, which takes seconds: it imports sympy.
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def reshard(model: nn.Module) -> None:
    """Put a model's shards in place of the whole weights that FSDP2 may have left there after a forward.

    It leaves the outermost module's weights gathered, for a backward pass that does not come. Until they are let
    go, the modules hold copies: reading them is right, and changing them, or the shards beneath them, is not.
    """
    loaded = sys.modules.get("torch.distributed.fsdp")
    if loaded is not None and torch.distributed.is_initialized():
        for module in model.modules():
            if isinstance(module, loaded.FSDPModule):
                module.reshard()


def named_slots(model: nn.Module) -> dict[str, Slot]:
    """Return the slot of every parameter, under each of its names, in the order of ``named_parameters()``."""
    slots = {}
    for path, module, keeper, prefix in _walk(model, "", None, ""):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{attribute}" if path else attribute
                key = f"{prefix}{attribute}" if keeper is not None else ""
                slots[name] = Slot(module, attribute, keeper, key)
    _refuse_ties_on_disk(model, slots)
    return slots


def plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors that hold the numbers: several where a subclass (a quantised weight) wraps them."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    names, _ = flatten()
    for part in (getattr(tensor, name) for name in names):
        if isinstance(part, torch.Tensor):  # a DTensor names its mesh too
            yield from plain_parts(part)


def _refuse_ties_on_disk(model: nn.Module, slots: Mapping[str, Slot]) -> None:
    # What transformers says of its models; in files, and on the device "meta", a tie does not show.
    for name, other in getattr(model, "all_tied_weights_keys", {}).items():
        places = [slots[n].identity() for n in (name, other) if n in slots]
        on_disk = any(isinstance(place, _File) and place.path.suffix == ".dat" for place in places)
        if on_disk and len(set(places)) == 2:
            raise ConfigError(
                f"{name} is tied to {other}, but was offloaded to disk apart from it: training would part them. "
                "Keep tied weights in RAM: accelerate.cpu_offload, or 'cpu' in a device_map."
            )


def _walk(module: nn.Module, path: str, keeper: Any, prefix: str) -> Iterator[tuple[str, nn.Module, Any, str]]:
    """Yield every module with its path, the hook that keeps its weights, and their prefix in the hook's map."""
    own = _offloading_hook(module)
    if own is not None:
        keeper, prefix = own, ""
    yield path, module, keeper, prefix
    # A hook keeps the weights of the modules inside only if it was told to.
    inner = keeper if keeper is not None and keeper.place_submodules else None
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{path}.{name}" if path else name, inner, f"{prefix}{name}." if inner else "")


def _offloading_hook(module: nn.Module) -> Any:
    """Return the hook by which Accelerate keeps this module's weights elsewhere, or None."""
    attached = module.__dict__.get("_hf_hook")
    if attached is None:
        return None
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    hooks = attached.hooks if isinstance(attached, SequentialHook) else [attached]
    return next((hook for hook in hooks if isinstance(hook, AlignDevicesHook) and hook.offload), None)


def _entry(weights: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], str]:
    """Return the innermost mapping behind a hook's ``weights_map``, and the key there."""
    from accelerate.utils import PrefixedDataset

    while isinstance(weights, PrefixedDataset):
        key, weights = f"{weights.prefix}{key}", weights.dataset
    return weights, key


class _File(NamedTuple):
    path: Path
    key: str


def _file(weights: Mapping[str, Any], key: str) -> _File | None:
    """Return the file that holds an entry of a hook's ``weights_map``; None if it is in RAM."""
    from accelerate.utils import OffloadedWeightsLoader

    if not isinstance(weights, OffloadedWeightsLoader) or key in weights.state_dict:
        return None
    entry = weights.index[key]
    if "safetensors_file" in entry:
        return _File(Path(entry["safetensors_file"]), entry.get("weight_name", key))
    return _File(Path(weights.save_folder, f"{key}.dat"), key)
