"""``zoft-report RUN [RUN ...]``: what can be said of runs, for people, programs and browsers.

A section is a function that makes a :class:`zoft.reporting.report.Section` of the runs: see :func:`sections_for`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoft.cli.config import user_errors
from zoft.cli.output_files import write_json, write_text
from zoft.errors import ConfigError
from zoft.log_file import LOG_NAME, ReplayLog

if TYPE_CHECKING:
    from zoft.reporting.report import Section
    from zoft.reporting.runs import Run

PROG = "zoft-report"


def privacy_of(runs: Sequence[Run]) -> Section:
    """Make the section on privacy, also of runs that are not private."""
    from zoft.reporting.privacy import privacy_section  # imports opacus, which takes seconds

    return privacy_section({run.name: run.log for run in runs})


def sections_for(runs: Sequence[Run]) -> list[Section]:
    """Make the sections of a report, in order."""
    from zoft.reporting.configuration import configuration_section
    from zoft.reporting.cost import cost_section
    from zoft.reporting.curves import curves_section
    from zoft.reporting.dataset import data_section
    from zoft.reporting.examples import examples_section
    from zoft.reporting.projected_grads import projected_grads_section
    from zoft.reporting.summary import summary_section

    privacy = [privacy_of] if any(run.private for run in runs) else []
    data = [data_section] if any(run.data is not None for run in runs) else []
    sections = (
        summary_section,
        *privacy,
        *data,
        curves_section,
        projected_grads_section,
        cost_section,
        examples_section,
        configuration_section,
    )
    return [section(runs) for section in sections]


def main(
    argv: Sequence[str] | None = None,
    *,
    prog: str = PROG,
    sections: Callable[[Sequence[Run]], Sequence[Section]] = sections_for,
) -> None:
    """Entry point of ``zoft-report``."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Report on runs, finished or not, side by side if there are several.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="A run's folder (output_dir), or its log.")
    parser.add_argument("--json", metavar="FILE", help="Also write the report's data into this file.")
    parser.add_argument("--html", metavar="FILE", help="Also write the report as one page, figures included.")
    asked = parser.parse_args(argv)
    with user_errors(prog):
        if asked.html is not None:
            from zoft.reporting.report import require_html

            require_html()
        from zoft.cli.run_files import is_by_gradients, read_runs

        logs = open_runs([name for name in asked.runs if not is_by_gradients(name)])
        runs = read_runs(list(dict.fromkeys(asked.runs)), logs)
        title = f"zoft report: {', '.join(run.label for run in runs)}"
        write(sections(runs), json_file=asked.json, html_file=asked.html, title=title)


def open_runs(names: Sequence[str]) -> dict[str, ReplayLog]:
    """Read the logs of runs that are named by their folders or their logs.

    Raises:
        ConfigError: If a log is named twice.
        ReplayError: If there is no log, or it is damaged.
    """
    runs: dict[str, ReplayLog] = {}
    for name in names:
        log = ReplayLog.open(Path(name, LOG_NAME) if Path(name).is_dir() else Path(name))
        if any(log.path.samefile(other.path) for other in runs.values()):
            raise ConfigError(f"{name} is named twice: its cost would be counted twice.")
        runs[name] = log
    return runs


def write(
    sections: Sequence[Section], *, json_file: str | None, html_file: str | None = None, title: str = "zoft"
) -> None:
    """Print sections as Markdown, and write them into files as asked.

    Raises:
        ConfigError: If a file cannot be written.
    """
    from zoft.reporting import report

    print(report.markdown(sections), flush=True)
    if json_file is not None:
        write_json(json_file, report.data(sections))
    if html_file is not None:
        write_text(html_file, report.html(sections, title))


if __name__ == "__main__":
    main()
