"""Which model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zoft.errors import ConfigError

__all__ = ["ModelArguments"]


@dataclass
class ModelArguments:
    """Which model, and in which precision."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A Hub id, a local folder, a .gguf file, or packaged:smollm2-135m-instruct (no network)."},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "The name of a GGUF file inside model_name_or_path."})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={"help": "Precision of the weights; auto is float32 on CPU and the checkpoint's own on GPU."},
    )
    device_map: str | None = field(
        default=None,
        metadata={
            "help": "Where the model's parts go, as in transformers: auto, balanced, ... or a JSON object. Parts for "
            "which the GPU is too small stay in RAM and are trained there."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention kernels, as in transformers: sdpa, eager, ..."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the Hub repository."})
    load_in_8bit: bool = field(
        default=False,
        metadata={
            "help": "Keep the base in int8 under an adapter: bitsandbytes on a GPU, torchao (weights only) on CPU."
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Keep the frozen base in 4 bits (nf4) under an adapter: bitsandbytes, GPU only."},
    )

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigError("load_in_8bit and load_in_4bit exclude each other; give one")

    @property
    def is_quantised(self) -> bool:
        """Whether the base is to be quantised while it is loaded."""
        return self.load_in_8bit or self.load_in_4bit
