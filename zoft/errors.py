"""Every exception and warning that zoft raises on purpose.

Exception
└── ZoftError
    ├── ConfigError (ValueError)       a setting is unknown, out of range, or contradicts another
    ├── DataError (ValueError)         the user's data cannot be used as the recipe says
    ├── AssetError                     a packaged model or data set is missing or altered
    ├── PlacementError                 theta + eps z cannot be evaluated exactly this way
    ├── NonFiniteLossError             a loss came back as NaN or infinity
    ├── UnchangedError                 a run ended with the very weights that it began with
    ├── DistributedError               the processes of a run differ, or one of them is gone
    ├── PrivacyBudgetError             another step would cost more privacy than was promised
    ├── ReplayError                    the log does not belong to this model, or is damaged
    └── BenchmarkError                 a benchmark cannot go on, or its results are not those that were committed
UserWarning
└── ZoftWarning                        it works, but not as you may think
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZoftError(Exception):
    """Base of all errors that zoft raises on purpose."""


class ConfigError(ZoftError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(ZoftError, ValueError):
    """The user's data cannot be used as the recipe says."""


class AssetError(ZoftError):
    """A packaged model or data set is missing or altered."""


class PlacementError(ZoftError):
    """The perturbed weights cannot be evaluated exactly in the requested way."""


class NonFiniteLossError(ZoftError, ArithmeticError):
    """A loss came back as NaN or infinity."""


class UnchangedError(ZoftError):
    """A run ended with the very weights that it began with."""


class DistributedError(ZoftError):
    """The processes of a run differ, or one of them is gone."""


class PrivacyBudgetError(ZoftError):
    """Another step would cost more privacy than was promised."""


class ReplayError(ZoftError):
    """The replay log does not belong to this model, or is damaged."""


class BenchmarkError(ZoftError):
    """A benchmark cannot go on, or its results are not those that were committed."""


class ZoftWarning(UserWarning):
    """It works, but not as you may think."""


def did_you_mean(got: object, known: Iterable[object]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, whatever its case, or ``""``."""
    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(str(got).lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
