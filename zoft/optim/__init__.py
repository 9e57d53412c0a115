"""zoft behind torch's optimizer protocol."""

from zoft.optim.optimizer import ZOOptimizer

__all__ = ["ZOOptimizer"]
