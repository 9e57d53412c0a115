"""What a direction z is: how its values are laid over the parameters."""

from zoft.directions.dense import DenseDirections
from zoft.directions.protocol import Directions
from zoft.directions.weights import write_weights

__all__ = ["DenseDirections", "Directions", "write_weights"]
