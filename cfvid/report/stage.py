"""report: RUN's artifacts -> a table on the terminal, and

    RUN/report/
      report.json      all figures, for programs
      report.html      one page for people; needs no other file and no network

Both are made anew on every call, from whatever stages are there.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cfvid.artifacts import remove_leftovers, write_json, write_text
from cfvid.report.collect import collect
from cfvid.report.render import render
from cfvid.report.sheets import make_sheets
from cfvid.report.table import print_text, text_table
from cfvid.stages.context import Run

logger = logging.getLogger(__name__)

JSON_NAME, PAGE_NAME = "report.json", "report.html"


def report(run: Run) -> Path:
    """Write RUN/report and print the scores; returns that folder.

    A run whose stages are not all there is reported as far as it goes. Media that cannot be read any more cost their
    pictures, never the report.
    """
    folder = run.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    data = collect(run)
    write_json(folder / JSON_NAME, data)
    write_text(folder / PAGE_NAME, render(data, make_sheets(run)))
    print_text(text_table(data))
    for name in (JSON_NAME, PAGE_NAME):
        logger.info("report: %s", folder / name)
    return folder
