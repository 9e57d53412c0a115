"""What all figures need."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING

from zoft.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Raise ConfigError unless matplotlib is installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("figures need matplotlib, which is not installed. Run: pip install 'zoft[report]'")


def svg(figure: Figure) -> bytes:
    """Return a figure as the content of an SVG file."""
    content = io.BytesIO()
    figure.savefig(content, format="svg")
    return content.getvalue()
