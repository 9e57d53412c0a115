"""MeZO: memory-efficient zeroth-order SGD (Malladi et al. 2023, arXiv 2305.17333).

``theta -= lr (mean_k projected_grad_k z_k + weight_decay theta)``, z Gaussian, with
``projected_grad_k = (L(theta + zo_eps z_k) - L(theta - zo_eps z_k)) / (2 zo_eps)``.

Published settings: full fine-tuning lr 1e-6, zo_eps 1e-3; LoRA 1e-4, 1e-2; prefix 1e-2, 1e-1; batch 16,
20,000 steps, constant lr. State beyond inference: none. Forwards a step: 2 q.

Deviations: weights are restored exactly and 16-bit weights are rounded stochastically, so bf16 learns.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoft.method import Method, mezo_with, with_defaults
from zoft.registry import register_method
from zoft.types import ZOConfig


@dataclass(frozen=True)
class MezoOptions:
    """MeZO has no options beyond the common ones."""


@register_method("mezo", MezoOptions)
def build(config: ZOConfig, options: MezoOptions) -> Method:
    """Build MeZO."""
    config = with_defaults(config, zo_eps=1e-3, num_queries=1, distribution="gaussian", per_example=True)
    return mezo_with(config)
