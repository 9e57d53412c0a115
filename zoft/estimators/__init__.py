"""Which points a step evaluates, and which scalars, linear in their losses, it keeps."""

from zoft.estimators.antithetic import AntitheticPopulation
from zoft.estimators.curvature import TwoSidedWithCurvature
from zoft.estimators.hessian import TwoSidedWithHessian
from zoft.estimators.one_sided import OneSided
from zoft.estimators.per_example import PerExample
from zoft.estimators.protocol import Estimator, Point
from zoft.estimators.share import WHOLE, Share, num_shares
from zoft.estimators.slopes import Slopes
from zoft.estimators.two_sided import TwoSided

__all__ = [
    "WHOLE",
    "AntitheticPopulation",
    "Estimator",
    "OneSided",
    "PerExample",
    "Point",
    "Share",
    "Slopes",
    "TwoSided",
    "TwoSidedWithCurvature",
    "TwoSidedWithHessian",
    "num_shares",
]
