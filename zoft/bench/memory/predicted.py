"""What a way of training takes at its peak, from the model's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from zoft.bench.memory.tracker import pretending
from zoft.bench.step.contenders import contender
from zoft.bench.step.workload import Workload
from zoft.errors import ConfigError
from zoft.method import build_method
from zoft.parameters import select
from zoft.placement import BatchedPlacement, Evaluated, make_placement

__all__ = ["Prediction", "predict"]

_STATE_BYTES = 4  # a method counts its state in float32 numbers


@dataclass(frozen=True)
class Prediction:
    """Peak memory of a way of training, in bytes, by what takes it.

    Attributes:
        name: The contender.
        trained: How many parameters it trains.
        weights: All weights and buffers.
        placement: What perturbed weights take: scratch, or a copy.
        gradients: Of the trained weights.
        state: What the method or the optimizer keeps from step to step.
        activations: The rest: the batch, activations of a forward, those kept for a backward, the logits, and an
            optimizer's own intermediate results.
        largest: The largest single tensor among those.
    """

    name: str
    trained: int
    weights: int
    placement: int
    gradients: int
    state: int
    activations: int
    largest: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.placement + self.gradients + self.state + self.activations


def predict(workload: Workload, name: str) -> Prediction:
    """Predict a contender's peak. Nothing of the model's size is allocated, and no weights are read.

    What a process needs to run at all (the interpreter, libraries, a GPU's context) is not in it, nor what an
    allocator loses to fragments.

    Raises:
        ConfigError: There is no such contender or model, the device is not here, or the method perturbs activations,
            whose memory is not known.
    """
    chosen = contender(name)
    device = torch.device(workload.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda is not here; --device cpu tells what the CPU's kernels would take")
    if chosen.config is None:
        return _followed(workload, name)
    method = build_method(chosen.config)
    if method.evaluation != "moved":
        raise ConfigError(
            f"the memory of {name!r} cannot be predicted: it does not move weights but carries directions along with "
            "activations. Measure it: zoft-bench step"
        )
    # An estimate's forwards are those of inference, on weights that the placement moves.
    plain = "lora/forward" if chosen.train == "lora" else "forward"
    forward = _followed(workload, plain)
    placement, state, together = _of_method(replace(workload, batch_size=1, length=1), workload.tokens, name)
    if together > 1:  # in the layers alone: of what follows, such as logits of all tokens, there is one point's
        layers = replace(workload, batch_size=together * workload.batch_size, loss="label")
        forward = replace(forward, activations=max(forward.activations, _followed(layers, plain).activations))
    return replace(forward, name=name, placement=placement, state=state)


@cache
def _followed(workload: Workload, name: str) -> Prediction:
    """Predict for a contender without a method, by following its tensors through two steps."""
    model = workload.describe(contender(name).train)
    with pretending(model, torch.device(workload.device)) as live:
        weights = live.bytes
        step = contender(name).prepare(model, workload.loss_of(model))
        batch = live.bytes - weights
        live.forget()
        step()
        step()  # an optimizer makes its state in the first
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
        state = live.bytes - weights - batch - gradients
        return Prediction(
            name=name,
            trained=sum(p.numel() for p in trained),
            weights=weights,
            placement=0,
            gradients=gradients,
            state=state,
            activations=live.peak - weights - gradients - state,
            largest=live.largest,
        )


@cache
def _of_method(model_alone: Workload, tokens: int, name: str) -> tuple[int, int, int]:
    """Return what a method's placement takes, its state, and how many points share a forward of so many tokens each."""
    chosen = contender(name)
    assert chosen.config is not None
    method, model = build_method(chosen.config), model_alone.describe(chosen.train)
    with pretending(model, torch.device(model_alone.device)):
        trainables = select(model)
        placement = make_placement(
            method.config, model, trainables, method.directions, evaluation=method.evaluation, part=(0, 1)
        )
        state = _STATE_BYTES * sum(method.state_size(t.parameter.shape) for t in trainables)
        if isinstance(placement, BatchedPlacement):
            together = placement.together(len(method.estimator.points(0)), tokens)
            return placement.extra_bytes(together), state, together
        assert isinstance(placement, Evaluated)  # as methods have that move weights
        return placement.extra_bytes(), state, 1
