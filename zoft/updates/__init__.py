"""From a step's summed scalars to the weights.

An update makes the gradient estimate of the scalars: whatever is not linear in the losses. A rule writes it.
"""

from zoft.updates.adaptive import ScalarAdaptive
from zoft.updates.average import Average, FirstAverage
from zoft.updates.by_curvature import ByCurvature, CurvatureOptions
from zoft.updates.cautious import Cautious
from zoft.updates.curvature import CurvatureWeighted
from zoft.updates.elementwise import Block, Elementwise, adam_direction, adam_step, descend_blocks
from zoft.updates.factored import Factored, FactoredSteps
from zoft.updates.fitness import FitnessShaped, shaping
from zoft.updates.per_example import GroupNormalized, Sum
from zoft.updates.protocol import Update
from zoft.updates.rule import Group, Rule
from zoft.updates.running import RunningMean
from zoft.updates.sgd import Sgd
from zoft.updates.spread import SpreadNormalized

__all__ = [
    "Average",
    "Block",
    "ByCurvature",
    "Cautious",
    "CurvatureOptions",
    "CurvatureWeighted",
    "Elementwise",
    "Factored",
    "FactoredSteps",
    "FirstAverage",
    "FitnessShaped",
    "Group",
    "GroupNormalized",
    "Rule",
    "RunningMean",
    "ScalarAdaptive",
    "Sgd",
    "SpreadNormalized",
    "Sum",
    "Update",
    "adam_direction",
    "adam_step",
    "descend_blocks",
    "shaping",
]
