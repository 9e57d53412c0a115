"""How long a step is: the learning rates as they are given, or measured (``zo_lr="auto"``, docs/step-size.md)."""

from zoft.step_size.auto import AutoStepSize
from zoft.step_size.given import GivenStepSize
from zoft.step_size.protocol import StepSize

__all__ = ["AutoStepSize", "GivenStepSize", "StepSize"]
