"""What all figures need."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from zoft.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LONGEST_NAME = 32  # characters of a run's name in a legend; more would leave no room for the curves


def require_matplotlib() -> None:
    """Raise ConfigError unless matplotlib is installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("figures need matplotlib, which is not installed. Run: pip install 'zoft[report]'")


def one_plot(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure for one plot, of a size that a phone still shows legibly."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure, axes


def legend(figure: Figure, axes: Axes, runs: int, loc: Literal["best", "lower right"] = "best") -> Figure:
    """Say whose curves are whose, if there are several runs; of long names their ends."""
    if runs > 1:
        for name in axes.legend(fontsize="small", loc=loc).get_texts():
            if len(name.get_text()) > LONGEST_NAME:
                name.set_text(f"...{name.get_text()[-LONGEST_NAME:]}")
    return figure


def svg(figure: Figure) -> bytes:
    """Return a figure as the content of an SVG file, the same for the same figure; what is behind it shows through."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "zoft"}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()
