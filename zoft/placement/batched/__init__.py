"""``batched``: several points are evaluated in one forward, side by side on the batch axis."""

from zoft.placement.batched.placement import BatchedPlacement

__all__ = ["BatchedPlacement"]
