"""From a step's summed scalars to the gradient that is descended: whatever is not linear in the losses."""

from zoft.updates.average import Average
from zoft.updates.protocol import Update
from zoft.updates.spread import SpreadNormalized

__all__ = ["Average", "SpreadNormalized", "Update"]
