"""Sampling with common random numbers: the same ones for whoever continues the same prompt at the same step.

Noise of the Gumbel distribution is added to the logits, and the token that is then the likeliest is a sample of their
softmax (Maddison, Tarlow and Minka 2014, arXiv 1411.0030). It belongs to a token of the vocabulary, not to an order of
tokens, so two models that differ little mostly take the same tokens, and the difference of their rewards tells of the
models and not of chance. The numbers come from private generators: torch's global one is neither read nor seeded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["SharedNoise", "gumbel"]


class SharedNoise(LogitsProcessor):
    """Makes the likeliest token a sample.

    Args:
        temperature: What the logits are divided by, > 0.
        key: What the noise is a function of, besides the prompt's number and the place in what is written.
        rows: The prompts' numbers, one for each row of the batch that is written to, once.
    """

    def __init__(self, temperature: float, key: str, rows: Sequence[int]) -> None:
        self._temperature, self._key, self._rows = temperature, key, tuple(rows)
        self._place = 0  # in what is written: how many tokens came before

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores over the temperature, plus noise: [B, V]."""
        keys = (f"{self._key}/{row}/{self._place}" for row in self._rows)
        noise = [gumbel(key, scores.shape[1], scores.device) for key in keys]
        self._place += 1
        return scores.float() / self._temperature + torch.stack(noise)


def gumbel(key: str, count: int, device: torch.device) -> Tensor:
    """Return independent standard Gumbel numbers in fp32, [count]: a function of the key and the kind of device."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    generator = torch.Generator(device).manual_seed(seed)
    numbers = torch.empty(count, device=device).exponential_(generator=generator)
    return -numbers.clamp_min_(torch.finfo(torch.float32).tiny).log_()
