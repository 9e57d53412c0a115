"""What releases cost, by Opacus's accountants. What happened is kept apart from it: see :class:`Release`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from zoft.errors import ConfigError


@dataclass(frozen=True)
class Release:
    """One noised sum over a batch into which every example came with probability ``sample_rate``, independently.

    Attributes:
        mechanism: ``"gaussian"`` or ``"laplace"``.
        noise_multiplier: Scale of the noise over the sum's sensitivity (L2 or, equal for one element, L1).
        sample_rate: In (0, 1].
    """

    mechanism: str
    noise_multiplier: float
    sample_rate: float


History = Sequence[tuple[Release, int]]
"""Releases, and how often each happened. All of one mechanism."""


def epsilon(history: History, *, delta: float | None, accountant: str) -> float:
    """Return the epsilon of a history of releases, under add/remove adjacency.

    Args:
        history: What happened.
        delta: Probability with which the bound may fail; None for the Laplace mechanism, whose bound does not.
        accountant: ``"prv"`` or ``"rdp"``, of the Gaussian mechanism. Pure epsilons are added up.
    """
    happened = [(release, count) for release, count in history if count]
    if not happened:
        return 0.0
    if happened[0][0].mechanism == "laplace":
        return math.fsum(count * _laplace_epsilon(release) for release, count in happened)
    from opacus.accountants import create_accountant

    counted = create_accountant(accountant)
    counted.history = [(r.noise_multiplier, r.sample_rate, count) for r, count in happened]
    with _quiet():
        return float(counted.get_epsilon(delta=delta))


def _laplace_epsilon(release: Release) -> float:
    """Return a sampled release's pure epsilon: ``log(1 + q (exp(1/b) - 1))`` (Balle et al. 2018, arXiv 1807.01647)."""
    return math.log1p(release.sample_rate * math.expm1(1.0 / release.noise_multiplier))


def calibrated(
    *, target_epsilon: float, delta: float | None, sample_rate: float, steps: int, accountant: str, mechanism: str
) -> float:
    """Return the noise multiplier with which ``steps`` releases cost at most ``target_epsilon``.

    For the Gaussian mechanism this is ``opacus.accountants.utils.get_noise_multiplier``.

    Raises:
        ConfigError: If no noise is enough by this accountant.
    """
    if mechanism == "laplace":
        scale = 1.0 / math.log1p(math.expm1(target_epsilon / steps) / sample_rate)
        while steps * _laplace_epsilon(Release(mechanism, scale, sample_rate)) > target_epsilon:
            scale = math.nextafter(scale, math.inf)  # rounding would cost the last step
        return scale
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            return float(
                get_noise_multiplier(
                    target_epsilon=target_epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant=accountant,
                )
            )
    except ValueError as error:
        raise ConfigError(
            f"dp_target_epsilon={target_epsilon:g} is too little for {steps} steps at sampling rate {sample_rate:g} "
            f"and dp_target_delta={delta} by dp_accountant={accountant!r}, whatever the noise. Raise it, take fewer "
            "steps, or use dp_accountant='prv', which is tighter."
        ) from error


def affordable(release: Release, *, target_epsilon: float, delta: float | None, accountant: str, most: int) -> int:
    """Return how many releases the budget pays for, ``most`` at most."""

    def fits(count: int) -> bool:
        return epsilon([(release, count)], delta=delta, accountant=accountant) <= target_epsilon

    if fits(most):
        return most
    fitting, too_many = 0, most
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


@contextmanager
def _quiet() -> Iterator[None]:
    """Opacus warns when its table of RDP orders ends, and its PRV takes log(0) at sampling rate 1; both bounds hold."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", "divide by zero encountered in log", RuntimeWarning)
        yield
