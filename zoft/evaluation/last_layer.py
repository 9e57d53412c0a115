"""Linear probing in place: the last layer of a model that classifies becomes a logistic regression on what it reads.

A random last layer over a good body is where training by forward passes learns least: the slopes that it measures say
little about the body until the layer reads it. Fitting that layer alone first (linear probing, then fine-tuning: Kumar
et al. 2022, arXiv 2202.10054) has a closed problem, which scikit-learn solves in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor, nn

from zoft.errors import ConfigError
from zoft.evaluation.batches import over_batches
from zoft.evaluation.probing import check_rows_of_each_class, fit_probe
from zoft.tasks.class_encoding import ClassEncoder, EncodedClasses
from zoft.tasks.class_scoring import class_logits
from zoft.tasks.evaluation_mode import evaluation_mode

__all__ = ["LastLayer", "last_layer", "probe_last_layer"]

_SAME = 1e-2  # how far what the layer makes of its input may be from the model's scores, which may be rounded


@dataclass(frozen=True)
class LastLayer:
    """The linear layer whose output a model's scores are."""

    name: str
    module: nn.Linear

    @property
    def parameters(self) -> tuple[str, ...]:
        """The full names of its parameters."""
        return tuple(f"{self.name}.{name}" for name, _ in self.module.named_parameters())


def probe_last_layer(
    model: nn.Module,
    train: EncodedClasses,
    encoder: ClassEncoder,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
) -> tuple[str, ...]:
    """Fit the last layer to training rows, everything before it as it is, and write it into the model.

    The regression is `zoft.evaluation.probing.fit_probe`'s; its standardisation of the features goes into weights and
    bias, so that the model computes the same.

    Args:
        model: A model of transformers for classification.
        train: The training rows, encoded.
        encoder: The task, made ready for the model.
        batch_size: Examples in a batch.
        device: Where the batches go; default: where the model's first parameter lies.

    Returns:
        The names of the parameters that were written.

    Raises:
        ConfigError: The model's scores are not the output of one linear layer.
        DataError: A class has fewer than two training rows.
    """
    check_rows_of_each_class(train.labels, encoder.task.names)
    target = next(model.parameters()).device if device is None else torch.device(device)
    some = encoder.collator()([train[index] for index in range(min(2, len(train)))])
    layer = last_layer(model, {name: tensor.to(target) for name, tensor in some.items()})

    def of_batch(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
        with _read_by(layer.module):
            return list(class_logits(model, batch).cpu())

    features = over_batches(
        model,
        train,
        encoder.collator(),
        of_batch,
        batch_size=batch_size,
        device=device,
        title="reading features",
        sizes=train.sizes,
    )
    matrix = torch.stack(features).double().numpy()
    fitted = _folded(fit_probe(matrix, train.labels, with_bias=layer.module.bias is not None))
    agreed = [fitted]
    broadcast_object_list(agreed)  # where there are several processes, the first one's
    with torch.no_grad():
        for parameter, values in zip((layer.module.weight, layer.module.bias), agreed[0], strict=True):
            if parameter is not None:
                parameter.copy_(torch.from_numpy(values))
    return layer.parameters


def last_layer(model: nn.Module, batch: dict[str, Tensor]) -> LastLayer:
    """Return the linear layer whose output the model's scores are, or those of them that it picks.

    Args:
        model: The model.
        batch: Some examples.

    Raises:
        ConfigError: There is none, or the scores are made of more than its output.
    """
    called: list[nn.Linear] = []
    linear = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hooks = [module.register_forward_hook(lambda module, _, __: called.append(module)) for module in linear]
    try:
        with evaluation_mode(model), torch.no_grad():
            scores = class_logits(model, batch)
            wide = [module for module in called if module.out_features == scores.shape[1]]
            if wide and _makes(wide[-1], scores, model, batch):
                return LastLayer(linear[wide[-1]], wide[-1])
    finally:
        for hook in hooks:
            hook.remove()
    raise ConfigError(
        f"linear_probe_first fits the linear layer whose output the scores of a model are, and those of "
        f"{type(model).__name__} are made otherwise; leave it out"
    )


def _makes(layer: nn.Linear, scores: Tensor, model: nn.Module, batch: dict[str, Tensor]) -> bool:
    """Whether a model's scores are what a layer makes of what it reads."""
    try:
        with _read_by(layer):
            read = class_logits(model, batch)
    except RuntimeError:  # the model does more with its output, for which this has the wrong shape
        return False
    if read.shape != (len(scores), layer.in_features):
        return False
    again = nn.functional.linear(read.to(layer.weight.dtype), layer.weight, layer.bias).float()
    return torch.allclose(again, scores, rtol=_SAME, atol=_SAME)


@contextmanager
def _read_by(layer: nn.Linear) -> Iterator[None]:
    """Let a layer return what it reads."""
    hook = layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    try:
        yield
    finally:
        hook.remove()


def _folded(fitted: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight [C, H] and bias [C] of the layer that computes what a fitted pipeline does."""
    scaler, regression = fitted[0], fitted[-1]
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - (weight @ scaler.mean_ if scaler.with_mean else 0.0)
    if len(weight) == 1:  # two classes: half on either side gives the same probabilities
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
