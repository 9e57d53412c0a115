"""A report: sections that are Markdown for people, data for programs, and drawings for a page of HTML."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import zoft
from zoft.errors import ConfigError
from zoft.reporting.figures import require_matplotlib, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn only if a page asks for it.

    Attributes:
        caption: What it shows, in words.
        draw: Makes it.
    """

    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Section:
    """One subject of a report.

    Attributes:
        name: Its key in the JSON.
        markdown: Its text, from a second-level heading on.
        data: The same as plain JSON types.
        drawings: Its figures.
    """

    name: str
    markdown: str
    data: Mapping[str, Any]
    drawings: tuple[Drawing, ...] = ()


def markdown(sections: Sequence[Section]) -> str:
    """Return a report as Markdown."""
    return "\n\n".join(section.markdown for section in sections)


def data(sections: Sequence[Section]) -> dict[str, Any]:
    """Return a report as plain JSON types: the version that made it, and each section under its name."""
    return {"zoft": zoft.__version__, **{section.name: section.data for section in sections}}


def require_html() -> None:
    """Raise ConfigError unless the libraries that :func:`html` needs are installed."""
    require_matplotlib()
    if find_spec("markdown_it") is None:
        raise ConfigError("HTML needs markdown-it-py, which is not installed. Run: pip install 'zoft[report]'")


def html(sections: Sequence[Section], title: str) -> str:
    """Return a report as one page that needs nothing else: it forbids the browser any request.

    Raises:
        ConfigError: If matplotlib or markdown-it-py is not installed (``pip install zoft[report]``).
    """
    require_html()
    from markdown_it import MarkdownIt

    # Names of folders and methods are in the text: what looks like HTML in them is shown, not obeyed.
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = "\n".join(
        f"<section>\n{reader.render(section.markdown)}{''.join(map(_figure, section.drawings))}</section>"
        for section in sections
    )
    return _PAGE.format(title=escape(title), body=body)


def _figure(drawing: Drawing) -> str:
    caption = escape(drawing.caption)
    content = base64.b64encode(svg(drawing.draw())).decode()
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{content}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #222; --back: #fff; --pale: #f3f3f5; --line: #ccc; --quiet: #555 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #ddd; --back: #16181c; --pale: #23262c; --line: #444; --quiet: #aaa }}
  img {{ filter: invert(0.87) hue-rotate(180deg) }}
}}
body {{ font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 46rem;
  margin: auto; padding: 1rem; overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid var(--line) }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; overflow-wrap: normal;
  margin: 1rem 0 }}
th, td {{ border: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; vertical-align: top }}
th, td:first-child {{ background: var(--pale) }}
th:first-child, td:first-child {{ position: sticky; left: 0 }}
code, pre {{ background: var(--pale); font-size: 0.9em }}
pre {{ padding: 0.5rem 0.75rem; white-space: pre-wrap; overflow-x: auto }}
.language-sh, .language-python {{ white-space: pre }}
figure {{ margin: 1.5rem 0 }}
img {{ width: 100%; height: auto }}
figcaption {{ color: var(--quiet); font-size: 0.9rem }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
