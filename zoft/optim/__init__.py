"""zoft behind torch's optimizer protocol."""

from zoft.optim.optimizer import ZOOptimizer
from zoft.optim.private import PrivateSteps

__all__ = ["PrivateSteps", "ZOOptimizer"]
