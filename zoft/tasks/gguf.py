"""Loading GGUF weights as ordinary floating-point models.

``transformers`` de-quantises the tensors while loading, but goes on describing the model as quantised, and
then refuses to save it or to train it. The description is wrong (every weight is a plain float), so it is
removed here, in the one place that all GGUF loading goes through.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from zoft.errors import ConfigError

__all__ = ["load_gguf"]


def load_gguf(
    folder: str | Path,
    gguf_file: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer from a GGUF file, with plain floating-point weights.

    Args:
        folder: A local folder or a Hub id.
        gguf_file: The file's name inside ``folder``.
        dtype: What the weights are de-quantised to.
        attn_implementation: As in ``from_pretrained``; ``None`` leaves the choice to transformers.

    Raises:
        ConfigError: The ``gguf`` package is not installed.
        OSError: The file cannot be found or read (from ``transformers``).
    """
    if find_spec("gguf") is None:
        raise ConfigError(
            f"reading {gguf_file} needs the package 'gguf', which is not installed; run: pip install gguf"
        )
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf_file, dtype=dtype, attn_implementation=attn_implementation
    )
    model.hf_quantizer = None
    model.is_quantized = False
    vars(model.config).pop("quantization_config", None)
    return model, tokenizer
