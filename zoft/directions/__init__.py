"""What a direction z is: how its values are laid over the parameters."""

from zoft.directions.dense import DenseDirections
from zoft.directions.factors import Factors, GivenFactors, NoiseFactors, OrthonormalFactors
from zoft.directions.flipout import FlipoutDirections
from zoft.directions.kept import KeptDirections
from zoft.directions.low_rank import LowRankDirections
from zoft.directions.masked import MaskedDirections
from zoft.directions.protocol import Combiner, Directions
from zoft.directions.states import ElementStates
from zoft.directions.weights import write_weights

__all__ = [
    "Combiner",
    "DenseDirections",
    "Directions",
    "ElementStates",
    "Factors",
    "FlipoutDirections",
    "GivenFactors",
    "KeptDirections",
    "LowRankDirections",
    "MaskedDirections",
    "NoiseFactors",
    "OrthonormalFactors",
    "write_weights",
]
