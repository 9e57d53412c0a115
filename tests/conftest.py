"""What every test may rely on."""

import os
import signal

# Before anything imports huggingface_hub: no test asks the network for anything, nor reports to it.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

# A shell starts background jobs with Ctrl-C ignored, and everything they start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
