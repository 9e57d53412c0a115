"""What in a run's releases speaks for the chosen example's presence."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from zoft.privacy.audit.subjects import Releases
from zoft.privacy.plan import PrivacyPlan

Array = npt.NDArray[np.float64]

STATISTICS = ("log-likelihood ratio", "sum of the releases", "number of releases")


def scores(runs: list[Releases], plan: PrivacyPlan, others: int) -> Array:
    """Return each run's :data:`STATISTICS`.

    The log-likelihood ratio is that of the planned mechanism with the canary saturating in a run's batches, each of
    which it is in with probability q; nothing tells more of it (Neyman and Pearson 1933). The other two are for
    mechanisms that are not the planned one. What is not a finite number counts as certainty.

    Args:
        runs: What was seen of each run.
        plan: The run's plan.
        others: Number of examples beside the canary, which pull the other way.

    Returns:
        One row a run, one column a statistic.
    """
    q, scale = plan.sample_rate, plan.noise_multiplier
    run_of = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    released = np.array([vector for run in runs for vector in run], np.float64).reshape(-1, plan.num_scalars)
    # The sum along the canary, in units of the clip threshold, without what the others add on average.
    unit = plan.first_clip * math.sqrt(plan.num_scalars) / plan.expected_batch_size
    x = released.sum(axis=1) / unit + others * q
    x = np.where(np.isfinite(x), x, np.inf)
    if plan.config.dp_mechanism == "laplace":
        ratio = np.clip(2.0 * x - 1.0, -1.0, 1.0) / scale  # (|x| - |x - 1|) / scale, also at infinity
    else:
        ratio = (x - 0.5) / scale**2
    if q < 1.0:
        ratio = np.logaddexp(math.log1p(-q), math.log(q) + ratio)
    columns = [np.bincount(run_of, weights, minlength=len(runs)) for weights in (ratio, x, np.ones_like(x))]
    return np.stack(columns, axis=1)
