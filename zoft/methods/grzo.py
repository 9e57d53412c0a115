"""GRZO: a direction for each example, and advantages within the batch (Tan et al. 2026, arXiv 2606.02857).

All examples of a batch are perturbed at once, each along its own z_i, which share one noise and differ by signs
(Flipout): two forwards give as many directions as there are examples. Their slopes, over their spread in the batch,
weight the directions:

    g = (1/B) sum_i p_i / std(p) z_i,    theta -= lr g,

std being about the batch's mean, with B in its denominator. The slopes themselves are not centred: over directions each
has mean 0.

The loss closure returns the losses of the B examples, ``[B]``; a single number counts as one example, moved whole.

Published settings: zo_eps 1e-3, lr about 1e-7 for a g that is divided by 2 zo_eps, hence 5e-5 for this one. State
beyond inference: none. Forwards a step: 2. ``num_queries`` is the most examples that a step may have, over all
micro-batches and processes; the log holds as many scalars.

Deviations: g is not divided by 2 zo_eps, so that the step's length does not depend on it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from zoft.errors import ConfigError
from zoft.method import Method, mezo_with, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig
from zoft.updates import GroupNormalized


@dataclass(frozen=True)
class GrzoOptions:
    """GRZO has no options beyond the common ones."""


@register_method("grzo", GrzoOptions)
def build(config: ZOConfig, options: GrzoOptions) -> Method:
    """Build GRZO.

    Raises:
        ConfigError: If directions are to be kept for a window of steps.
    """
    if config.window > 1:
        raise ConfigError(
            f"grzo's directions are the examples' of a step; shared_vector={config.shared_vector!r} is not."
        )
    config = dataclasses.replace(config, shared_vector="example")
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian", per_example=True)
    return mezo_with(config, of_examples=GroupNormalized())
