"""report: RUN's artifacts -> RUN/report (report.json, report.html) and a table on the terminal."""
from pathlib import Path
from cfvid.stages.context import Run
def report(run: Run) -> Path:
    return run.folder / "report"
