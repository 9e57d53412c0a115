"""Models by their shape alone, with random weights: published sizes, and Llamas of any number of parameters."""

from __future__ import annotations

import math
import re
from typing import Any

from zoft.checks import check_choice
from zoft.errors import ConfigError

__all__ = ["GROWN", "SHAPES", "grown_llama", "shape"]

GROWN = "shape:llama:"  # followed by a number of parameters, such as 30M

_COUNT = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[KMB])")
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}

_VOCABULARY = 4096  # few, so that what grows are the layers
_HEAD = 64  # width of a head; a model is about as deep as it has heads
_WIDEST = 8192
_NEAR = 0.1  # how far a model may be from the number that was asked for


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": 4 * hidden,
        "vocab_size": 50272,
    }


def _llama(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": 32000,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "shape:llama-10m": _llama(128, 8, 4, 344),
    "shape:llama-30m": _llama(320, 8, 5, 864),
    "shape:opt-125m": _opt(768, 12, 12),
    "shape:opt-350m": _opt(1024, 24, 16),
    "shape:opt-1.3b": _opt(2048, 24, 32),
    "shape:opt-13b": _opt(5120, 40, 40),
    "shape:opt-30b": _opt(7168, 48, 56),
    "shape:llama-7b": _llama(4096, 32, 32, 11008),
}
"""Published sizes of models (Zhang et al. 2022, arXiv 2205.01068; Touvron et al. 2023, arXiv 2302.13971), and two small
ones. Their weights are random: speed and memory do not depend on them."""


def shape(model: str) -> dict[str, Any] | None:
    """Return the configuration of a ``shape:...``; None if the model is none.

    Raises:
        ConfigError: There is no such shape.
    """
    if not model.startswith("shape:"):
        return None
    if model.startswith(GROWN):
        return grown_llama(model.removeprefix(GROWN))
    check_choice("model", model, SHAPES)
    return dict(SHAPES[model])


def grown_llama(size: str) -> dict[str, Any]:
    """Return a Llama of about so many parameters: heads of 64, about as many layers as heads, tied embeddings.

    Args:
        size: Such as ``30M`` or ``1.5B``.

    Raises:
        ConfigError: It is not such a number, or too small for a Llama of one layer.
    """
    match = _COUNT.fullmatch(size)
    if match is None:
        raise ConfigError(f"a model's size must be a number of parameters with K, M or B, such as 30M, got {size!r}")
    wanted = float(match["number"]) * _UNITS[match["unit"]]
    found = []
    for hidden in range(_HEAD, _WIDEST + 1, _HEAD):
        layers = round((wanted - _beside(hidden)) / _layer(hidden))
        if layers >= 1 and abs(_beside(hidden) + layers * _layer(hidden) - wanted) <= _NEAR * wanted:
            found.append((abs(math.log(layers * _HEAD / hidden)), hidden, layers))
    if not found:
        raise ConfigError(
            f"there is no Llama of {size} parameters here: the smallest has {_beside(_HEAD) + _layer(_HEAD):,}"
        )
    _, hidden, layers = min(found)
    settings = _llama(hidden, layers, hidden // _HEAD, _intermediate(hidden))
    return {**settings, "vocab_size": _VOCABULARY, "tie_word_embeddings": True}


def _intermediate(hidden: int) -> int:
    return round(8 * hidden / 3 / 32) * 32  # Llama's 8/3, in multiples that kernels like


def _layer(hidden: int) -> int:
    return 4 * hidden**2 + 3 * hidden * _intermediate(hidden) + 2 * hidden


def _beside(hidden: int) -> int:
    return _VOCABULARY * hidden + hidden
