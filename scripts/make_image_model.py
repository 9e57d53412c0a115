"""Write a small untrained image model, with what prepares its inputs, for images such as MNIST's (28 x 28, grey).

    python scripts/make_image_model.py runs/small-resnet

A residual network of 174,960 weights before its layer for classes. It is for trying out, on a machine without a model
hub, what recipes/images.yaml does with a pretrained one.
"""

from __future__ import annotations

import sys

import torch
from transformers import ResNetConfig, ResNetModel, ViTImageProcessorPil

SIDE = 28  # pixels
GREY = {"image_mean": [0.5], "image_std": [0.5]}


def main(folder: str) -> None:
    """Write the folder."""
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[2, 2, 2], layer_type="basic"
    )
    model = ResNetModel(config)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **GREY).save_pretrained(folder)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} weights in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
