"""The page in a real browser: ``pip install 'zoft[browser]'`` and a Chromium, such as Debian's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from zoft.cli.report import main as report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_shows_all_of_itself_and_asks_for_nothing(
    width: int, finished: Path, private: Path, tmp_path: Path
) -> None:
    long_name = tmp_path / ("a_name_without_a_place_to_break_it_" * 5)
    shutil.copytree(finished, long_name)
    page_file = tmp_path / "report.html"
    report([str(finished), str(private), str(long_name), "--html", str(page_file)])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": width, "height": 844})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            "Promise.all([...document.images].map(async i => { await i.decode(); return [i.naturalWidth, i.width] }))"
        )
        assert len(sizes) >= 6 and all(natural > 0 and 0 < shown <= width for natural, shown in sizes)
        narrow = page.evaluate("[...document.querySelectorAll('th, td')].filter(c => c.offsetWidth < 24).length")
        assert narrow == 0, "no column is squeezed to a stripe"
        assert said == [] and asked == [page_file.as_uri()]
        browser.close()
