"""The proof of reach is not taken in by losses that have few values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoft.directions import DenseDirections
from zoft.errors import PlacementError
from zoft.noise import run_key
from zoft.parameters import select
from zoft.placement import StreamPlacement
from zoft.types import LossFn


class Tied(nn.Module):
    """A head that is tied to the embedding, and reads its weights past its forward or does not."""

    def __init__(self, past: bool) -> None:
        super().__init__()
        self.embed, self.middle = nn.Embedding(40, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight
        self.past = past

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Of tokens [B, L], return logits [B, 40]."""
        hidden = torch.tanh(self.middle(self.embed(ids).mean(1)))
        return nn.functional.linear(hidden, self.embed.weight) if self.past else self.head(hidden)


def case(past: bool, examples: int, seed: int) -> tuple[StreamPlacement, LossFn]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Tied(past).eval()
        ids, labels = torch.randint(0, 40, (examples, 6)), torch.randint(0, 2, (examples,))
    placement = StreamPlacement(model, select(model), DenseDirections(run_key(0), "gaussian"), scratch_bytes=2**26)

    def error_rate() -> torch.Tensor:
        return 1.0 - (model(ids)[:, :2].argmax(1) == labels).float().mean()

    return placement, error_rate


@pytest.mark.parametrize("examples", [1, 4, 16])
def test_a_head_read_past_its_forward_is_noticed_by_an_error_rate(examples: int) -> None:
    """By the loss alone, the proof passed wrongly in 27 (16 examples) to 92 (2 examples) of 200 such cases."""
    for seed in range(30):
        placement, error_rate = case(True, examples, seed)
        with torch.no_grad(), pytest.raises(PlacementError, match="does not reach"):
            placement.proved(error_rate)


def test_a_head_that_is_called_is_proved_by_an_error_rate() -> None:
    for seed in range(30):
        placement, error_rate = case(False, 4, seed)
        with torch.no_grad():
            assert placement.proved(error_rate) is placement


def test_the_weights_are_the_same_bits_after_a_proof() -> None:
    placement, error_rate = case(True, 4, 0)
    before = [weight.clone() for weight in placement._model.parameters()]
    with torch.no_grad(), pytest.raises(PlacementError):
        placement.proved(error_rate)
    assert all(map(torch.equal, before, placement._model.parameters()))


def test_what_is_returned_for_padding_may_be_nan() -> None:
    class Padded(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(inputs), torch.full((1, 4), torch.nan)])

    model = Padded(4, 4).eval()
    placement = StreamPlacement(model, select(model), DenseDirections(run_key(0), "gaussian"), scratch_bytes=2**26)
    with torch.no_grad():
        assert placement.proved(lambda: model(torch.ones(1, 4))[0].sum()) is placement
