"""Differential privacy: the mechanism, its sampling, its noise, its cost, and which runs can have it."""

from zoft.privacy.config import PrivacyConfig
from zoft.privacy.plan import PrivacyPlan
from zoft.privacy.sampling import PoissonBatches

__all__ = ["PoissonBatches", "PrivacyConfig", "PrivacyPlan"]
