"""A frozen base in 8 or 4 bits, for adapters to be trained over.

Weights only are quantised wherever there is a choice. Where activations are rounded too (bitsandbytes' int8), the
loss is a staircase in the adapter, and a small ``zo_eps`` may not leave the step that it starts on.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from zoft.cli.arguments.model import ModelArguments
from zoft.errors import ConfigError

__all__ = ["quantization"]


def quantization(arguments: ModelArguments) -> dict[str, Any]:
    """Return what to pass to ``from_pretrained``; nothing for weights as they are.

    Raises:
        ConfigError: What does it on this machine is not installed, or nothing does.
    """
    if not arguments.is_quantised:
        return {}  # not a None, with which a checkpoint that is quantised already would not be read as such
    if torch.cuda.is_available():
        _need("bitsandbytes")
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_8bit=arguments.load_in_8bit,
            load_in_4bit=arguments.load_in_4bit,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16 if arguments.dtype == "auto" else getattr(torch, arguments.dtype),
        )
        return {"quantization_config": config}
    if arguments.load_in_4bit:
        raise ConfigError("load_in_4bit needs a CUDA device, and there is none; use load_in_8bit")
    _need("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"quantising the base on this machine needs the package {package!r}, which is not installed; "
            f"run: pip install {package}"
        )
