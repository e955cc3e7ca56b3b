"""Metrics of a training run: metrics.jsonl for programs, TensorBoard for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import TensorBoardTracker

from cfvid import ranks
from cfvid.artifacts import atomic_file

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends to FOLDER/metrics.jsonl and FOLDER/tensorboard/; in processes but the main one, to nothing.

    Args:
        folder: the training run's.
        resumed_step: lines of later steps are removed; they will be written again.
    """

    def __init__(self, folder: Path, *, resumed_step: int) -> None:
        self._is_open = ranks.is_main()
        if not self._is_open:
            return
        self._path = folder / METRICS_NAME
        kept = [line for line in read_metrics(folder) if line["step"] <= resumed_step]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = TensorBoardTracker(run_name="tensorboard", logging_dir=str(folder), purge_step=resumed_step)
        self._board.start()

    def log(self, *, step: int, event: str, **values: float) -> None:
        """Write one line: `event` is `step` or `epoch`."""
        if not self._is_open:
            return
        self._file.write(json.dumps({"step": step, "event": event, **values}) + "\n")
        self._file.flush()
        self._board.log({f"{event}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Close both."""
        if self._is_open:
            self._file.close()
            self._board.finish()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; none when there is no file."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # a killed run's last line
    return lines
