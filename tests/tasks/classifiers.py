"""Tiny models for classification whose body is random and whose layer for classes is missing, and rows for them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

from tests.tasks.architectures import POSITIONS, tokenizer_for

SIDE = 8  # pixels
TOPICS = {"sport": ["ball", "goal", "team"], "money": ["bank", "price", "stock"], "food": ["soup", "bread", "salt"]}
FILLER = ["the", "a", "of", "and", "new", "old"]
SHADES = {"bright": 230, "dark": 20, "grey": 120}

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT: dict[str, Any] = {"vocab_size": 1000, "initializer_range": 0.2, "pad_token_id": 0, **_SMALL}
_IMAGE: dict[str, Any] = {"image_size": SIDE, "patch_size": 4, "num_channels": 3, "initializer_range": 0.2, **_SMALL}

BODIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(max_position_embeddings=POSITIONS, **_TEXT)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(max_position_embeddings=POSITIONS + 2, **_TEXT)),
    "llama": lambda: hf.LlamaModel(hf.LlamaConfig(num_key_value_heads=2, **_TEXT)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**_IMAGE)),
    "resnet": lambda: hf.ResNetModel(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
}
OF_IMAGES = ("vit", "resnet")
LAST_LAYERS = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "llama": "score",
    "vit": "classifier",
    "resnet": "classifier.1",
}


def save_body(name: str, folder: Path) -> str:
    """Write a model without a layer for classes, and what prepares its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BODIES[name]().save_pretrained(folder)
    if name in OF_IMAGES:
        image_processor().save_pretrained(folder)
    else:
        tokenizer_for("masked").save_pretrained(folder)
    return str(folder)


def image_processor() -> Any:
    size = {"height": SIDE, "width": SIDE}
    return hf.ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def write_texts(file: Path, count: int = 60, seed: int = 0) -> str:
    rng = random.Random(seed)
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            topic = list(TOPICS)[number % len(TOPICS)]
            words = [*rng.choices(FILLER, k=3), *rng.choices(TOPICS[topic], k=2)]
            stream.write(json.dumps({"text": f"{' '.join(words)} {number}", "label": topic}) + "\n")
    return str(file)


def pictures(count: int = 45, seed: int = 0) -> list[tuple[str, Any]]:
    """Noisy images of three shades."""
    generator = np.random.default_rng(seed)
    shades = [list(SHADES)[number % len(SHADES)] for number in range(count)]
    noise = generator.integers(-20, 21, (count, SIDE, SIDE, 3))
    return [(shade, (SHADES[shade] + one).astype(np.uint8)) for shade, one in zip(shades, noise, strict=True)]


def write_images(folder: Path, count: int = 45, seed: int = 0) -> str:
    """Write a folder of image files for each class."""
    for number, (shade, pixels) in enumerate(pictures(count, seed)):
        (folder / shade).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / shade / f"{number}.png")
    return str(folder)
