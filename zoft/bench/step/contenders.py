"""Ways of training, by name: ``[lora/]NAME[*QUERIES][:PLACEMENT]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoft.errors import ConfigError, did_you_mean
from zoft.method import build_method
from zoft.optim import ZOOptimizer
from zoft.registry import method_names
from zoft.types import ZOConfig

__all__ = ["DEFAULT", "Contender", "contender"]

DEFAULT = (
    "forward",
    "mezo:stream",
    "mezo:snapshot",
    "fzoo:stream",
    "as-written",
    "sgd",
    "adamw",
    "lora/mezo",
    "lora/adamw",
)

Loss = Callable[[], Tensor]

_STATE_BYTES = 4  # a method counts its state in float32 numbers

_NAME = re.compile(r"(?P<lora>lora/)?(?P<name>[^*:/]+)(\*(?P<queries>\d+))?(:(?P<placement>\w+))?")


@dataclass(frozen=True)
class Contender:
    """A way of training.

    Attributes:
        name: As the user wrote it.
        train: What is trained; see `zoft.bench.problems.trained.select_trained`.
        forwards: How many forwards a step cannot do without; None for training by gradients.
        weight_reads: How often a step must at least read the weights.
        writes: How often as much as the trained weights a step must at least write; beside it, a method's state.
        config: Of a zeroth-order method; None for the others.
        prepare: From a model and its loss to a function that takes one step.
    """

    name: str
    train: str
    forwards: int | None
    weight_reads: int
    writes: int
    config: ZOConfig | None
    prepare: Callable[[nn.Module, Loss], Callable[[], object]]

    def written_bytes(self, model: nn.Module) -> int:
        """Return how many bytes a step must at least write, of the weights that the model trains and of state."""
        trained = [p for p in model.parameters() if p.requires_grad]
        rule = None if self.config is None else build_method(self.config).rule
        state = 0 if rule is None else sum(rule.state_size(p.shape) for p in trained)
        return self.writes * sum(p.nbytes for p in trained) + _STATE_BYTES * state


def contender(name: str) -> Contender:
    """Return the contender of a name.

    Raises:
        ConfigError: There is none of this name.
    """
    match = _NAME.fullmatch(name)
    what = match["name"] if match else ""
    known = (*_PLAIN, *method_names())
    if match is None or what not in known:
        raise ConfigError(f"there is no contender {name!r}.{did_you_mean(what, known)} Known: {', '.join(known)}.")
    train = "lora" if match["lora"] else "full"
    if what in _PLAIN:
        if match["queries"] or match["placement"]:
            raise ConfigError(f"contender {name!r}: queries (*N) and a placement (:NAME) are for zeroth-order methods")
        plain = _PLAIN[what]
        return Contender(name, train, plain.forwards, plain.weight_reads, plain.writes, None, plain.prepare)
    config = ZOConfig(
        method=what,
        num_queries=int(match["queries"]) if match["queries"] else None,
        placement=match["placement"] or "auto",
    )
    estimator = build_method(config).estimator
    # Fewer than forwards where a pass does the work of two, or holds several points.
    reads = 1 if config.placement == "batched" else min(estimator.forwards, len(estimator.points(0)))

    def zeroth_order(model: nn.Module, loss: Loss) -> Callable[[], object]:
        optimizer = ZOOptimizer(model, lr=1e-7, config=config)
        return lambda: optimizer.step(loss)

    return Contender(name, train, estimator.forwards, reads, 1, config, zeroth_order)


def _forward(model: nn.Module, loss: Loss) -> Callable[[], object]:
    @torch.inference_mode()
    def step() -> None:
        loss().item()

    return step


def _as_written(model: nn.Module, loss: Loss) -> Callable[[], object]:
    """MeZO's step (Algorithm 1 of arXiv 2305.17333), with noise drawn four times, one tensor at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    lr, eps = 1e-7, 1e-3

    def moved(seed: int, scale: float) -> None:
        torch.manual_seed(seed)
        for p in parameters:
            z = torch.normal(mean=0, std=1, size=p.data.size(), device=p.device, dtype=p.dtype)
            p.data = p.data + scale * z

    @torch.no_grad()
    def step() -> None:
        seed = int(torch.randint(2**31, ()).item())
        moved(seed, eps)
        plus = loss().item()
        moved(seed, -2 * eps)
        minus = loss().item()
        moved(seed, eps)
        moved(seed, -lr * (plus - minus) / (2 * eps))

    return step


def _by_gradients(make: Callable[..., torch.optim.Optimizer]) -> Callable[[nn.Module, Loss], Callable[[], object]]:
    def prepare(model: nn.Module, loss: Loss) -> Callable[[], object]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        # Torch's own choice, said aloud because it makes another for tensors that only pretend to be on a GPU.
        optimizer = make(parameters, lr=1e-7, foreach=all(p.is_cuda for p in parameters))

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return prepare


class _Plain(NamedTuple):
    """What `Contender` says of a way of training that is no zeroth-order method."""

    forwards: int | None
    weight_reads: int
    writes: int
    prepare: Callable[[nn.Module, Loss], Callable[[], object]]


_PLAIN = {
    "forward": _Plain(1, 1, 0, _forward),
    "as-written": _Plain(2, 2, 1, _as_written),
    # The backward pass reads the weights too; gradients are written, weights, and AdamW's two moments.
    "sgd": _Plain(None, 2, 2, _by_gradients(torch.optim.SGD)),
    "adamw": _Plain(None, 2, 4, _by_gradients(torch.optim.AdamW)),
}
