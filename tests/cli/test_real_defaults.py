"""The packaged model with real reviews: what is taken where nothing is said must work, in bfloat16 too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoft
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.models import load_model_and_tokenizer
from zoft.tasks.assets import load_packaged_dataset

pytestmark = pytest.mark.slow

QUERIES = 16


def slopes(dtype: str, method: str, zo_eps: float | None) -> np.ndarray:
    """Of the loss of the label words, along the directions of one step."""
    model, tokenizer = load_model_and_tokenizer(ModelArguments("packaged:smollm2-135m-instruct", dtype=dtype))
    rows = list(load_packaged_dataset("packaged:rotten-tomatoes"))[::1000]
    prompts = [f"Review: {row['text'][:100]}\nOverall, the movie was" for row in rows]
    tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    words = [tokenizer(word)["input_ids"][0] for word in (" boring", " excellent")]
    labels = torch.tensor([int(row["label"]) for row in rows])
    config = zoft.ZOConfig(method, zo_eps=zo_eps, num_queries=QUERIES, distribution="rademacher")
    optimizer = zoft.ZOOptimizer(model, 0.0, config)
    optimizer.step(
        lambda: torch.nn.functional.cross_entropy(
            model(**tokens, logits_to_keep=1).logits[:, -1, words].float(), labels
        )
    )
    assert optimizer.last_record is not None
    return np.array(optimizer.engine.method.estimator.projected_grads(optimizer.last_record.scalars))


def test_the_default_method_sees_slopes_through_the_rounding_of_bfloat16() -> None:
    exact = slopes("float32", "mezo", 1e-3)
    default = zoft.ZOConfig().method
    found, finer = slopes("bfloat16", default, None), slopes("bfloat16", default, 1e-4)
    agreement = [float(np.corrcoef(exact, other)[0, 1]) for other in (found, finer)]
    print(f"correlation with the exact slopes: {agreement[0]:.3f}, with zo_eps 1e-4 {agreement[1]:.3f}")
    assert agreement[0] > 0.6
    assert agreement[1] < agreement[0]
