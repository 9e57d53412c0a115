"""What can be benchmarked: every registered method, and the baselines of the other orders by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoft.bench.optimisers.first_order import AdamW, Sgd, Svrg
from zoft.bench.optimisers.full_batch import Bfgs, Lbfgs, Newton, NewtonCg
from zoft.bench.optimisers.protocol import Optimiser
from zoft.bench.optimisers.zeroth_order import ZerothOrder
from zoft.bench.options import fill
from zoft.errors import ConfigError, did_you_mean
from zoft.registry import method_names

__all__ = ["BASELINES", "Optimiser", "make_optimiser", "optimiser_names"]

BASELINES: dict[str, type[Any]] = {  # fo: first order, so: second order
    "fo_adamw": AdamW,
    "fo_sgd": Sgd,
    "fo_svrg": Svrg,
    "so_bfgs": Bfgs,
    "so_lbfgs": Lbfgs,
    "so_newton": Newton,
    "so_newton_cg": NewtonCg,
}


def optimiser_names() -> tuple[str, ...]:
    """Return the names of all registered methods, then those of the baselines."""
    return (*method_names(), *BASELINES)


def make_optimiser(name: str, options: Mapping[str, Any], where: str) -> Optimiser:
    """Build an optimiser.

    Args:
        name: One of :func:`optimiser_names`.
        options: Its options, as a recipe gives them.
        where: What the options are called in messages.

    Raises:
        ConfigError: If the name or an option is unknown, or a value is out of range.
    """
    if name not in optimiser_names():
        raise ConfigError(
            f"{where}: there is no method {name!r}.{did_you_mean(name, optimiser_names())} "
            f"Known: {', '.join(optimiser_names())}."
        )
    if name in BASELINES:
        made: Optimiser = fill(BASELINES[name], options, where)
        return made
    return fill(ZerothOrder, {"method": name, **options}, where)
