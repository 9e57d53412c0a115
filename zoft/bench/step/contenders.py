"""Ways of training, by name: ``[lora/]NAME[*QUERIES][:PLACEMENT]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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

_NAME = re.compile(r"(?P<lora>lora/)?(?P<name>[^*:/]+)(\*(?P<queries>\d+))?(:(?P<placement>\w+))?")


@dataclass(frozen=True)
class Contender:
    """A way of training.

    Attributes:
        name: As the user wrote it.
        train: What is trained; see `zoft.bench.problems.trained.select_trained`.
        forwards: How many forwards a step cannot do without; None for training by gradients.
        config: Of a zeroth-order method; None for the others.
        prepare: From a model and its loss to a function that takes one step.
    """

    name: str
    train: str
    forwards: int | None
    config: ZOConfig | None
    prepare: Callable[[nn.Module, Loss], Callable[[], object]]


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
        forwards, prepare = _PLAIN[what]
        return Contender(name, train, forwards, None, prepare)
    config = ZOConfig(
        method=what,
        num_queries=int(match["queries"]) if match["queries"] else None,
        placement=match["placement"] or "auto",
    )
    forwards = build_method(config).estimator.forwards

    def zeroth_order(model: nn.Module, loss: Loss) -> Callable[[], object]:
        optimizer = ZOOptimizer(model, lr=1e-7, config=config)
        return lambda: optimizer.step(loss)

    return Contender(name, train, forwards, config, zeroth_order)


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


_PLAIN: dict[str, tuple[int | None, Callable[[nn.Module, Loss], Callable[[], object]]]] = {
    "forward": (1, _forward),
    "as-written": (2, _as_written),
    "sgd": (None, _by_gradients(torch.optim.SGD)),
    "adamw": (None, _by_gradients(torch.optim.AdamW)),
}
