"""The mechanism's noise, watched or left out."""

from __future__ import annotations

import pytest

from tests.privacy.runs import Noise
from zoft.privacy import mechanism


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Noise:
    """The real noise, watched."""
    watched = Noise(mechanism.noised)
    monkeypatch.setattr(mechanism, "noised", watched)
    return watched


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> Noise:
    watched = Noise(lambda total, mechanism, noise_multiplier: list(total))
    monkeypatch.setattr(mechanism, "noised", watched)
    return watched
