"""Confusions: counted by hand, in the report's data and on its page."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfvid.report.collect import collect
from cfvid.report.confusion import MOST_CLASSES, Confusions
from cfvid.report.figures import confusion_figure
from cfvid.report.render import render
from cfvid.report.sheets import Sheets
from cfvid.stages import Run


def _write(path: Path, labels: list[str], said: list[str]) -> Path:
    pq.write_table(
        pa.table({"sample_id": [str(n) for n in range(len(labels))], "label": labels, "predicted": said}), path
    )
    return path


def test_seeds_add_up(tmp_path: Path) -> None:
    confusions = Confusions()
    cell = ("hmdb51", "linear", "n_cf")
    confusions.add(cell, _write(tmp_path / "0.parquet", ["run", "run", "walk"], ["run", "walk", "walk"]))
    confusions.add(cell, _write(tmp_path / "1.parquet", ["run", "run", "walk"], ["walk", "walk", "jump"]))
    [entry] = confusions.plain()
    assert entry["classes"] == ["jump", "run", "walk"]
    assert entry["counts"] == [[0, 0, 0], [0, 1, 3], [1, 0, 1]]
    assert entry["pairs"] == [
        {"label": "run", "predicted": "walk", "count": 3, "share": pytest.approx(0.75)},
        {"label": "walk", "predicted": "jump", "count": 1, "share": pytest.approx(0.5)},
    ]
    drawing = confusion_figure(entry)
    assert "75% of run taken for walk" in drawing.alt
    assert b">walk<" in drawing.light


def test_protocols_that_name_no_class_are_passed_over(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample_id": ["a"], "decisions": [[0.1, 0.2]]}), tmp_path / "svm.parquet")
    confusions = Confusions()
    confusions.add(("voc07", "svm", "n_cf"), tmp_path / "svm.parquet")
    assert confusions.plain() == []


def test_of_many_classes_only_pairs_are_kept(tmp_path: Path) -> None:
    names = [f"c{n:03d}" for n in range(MOST_CLASSES + 1)]
    confusions = Confusions()
    confusions.add(("big", "linear", "n_pre"), _write(tmp_path / "0.parquet", names, names[1:] + names[:1]))
    [entry] = confusions.plain()
    assert "counts" not in entry
    assert len(entry["pairs"]) == 5


def test_the_page_shows_them(run: Run) -> None:
    report = collect(run)
    assert {entry["network"] for entry in report["confusions"]} >= {"n_pre", "n_cf"}
    total = sum(map(sum, report["confusions"][0]["counts"]))
    assert total == report["targets"]["target"]["num_scored"]
    page = render(report, Sheets())
    assert "<h2>Confusions</h2>" in page
    assert "Confusion matrix of n_cf" in page
