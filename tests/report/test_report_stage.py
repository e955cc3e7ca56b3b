"""`cfvid report`: the stage as users call it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from support.synthetic_run import write_run
from support.tiny import tiny_config

from cfvid.cli import main
from cfvid.report.collect import collect
from cfvid.report.stage import report
from cfvid.report.table import print_text, text_table
from cfvid.stages import Run


def test_the_command_writes_both_files_and_prints_the_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--output", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "N_cf is ahead of N_pre, but by no more than chance could explain.",
        "",
        "target  protocol  metric     n_pre  n_cf  random   gain  chance",
        "---------------------------------------------------------------",
        "target  linear    top1        50.0  75.0    33.3  +25.0    33.3",
        "target  linear    crop_top1   41.7  66.7    25.0  +25.0    33.3",
        "target  finetune  top1        50.0  75.0    33.3  +25.0    33.3",
        "target  finetune  crop_top1   41.7  66.7    25.0  +25.0    33.3",
        "",
        "Scores in percent, mean +- standard deviation over seeds; gain is n_cf - n_pre, seed by seed.",
        "Careful: target: one of its 12 validation samples is 8.3 points.",
        "Careful: One transfer seed: how much the scores vary from training to training is not known.",
    ]
    data = json.loads((run.folder / "report" / "report.json").read_text())
    assert data["headline"]["answer"] == out.splitlines()[0]
    assert (run.folder / "report" / "report.html").read_text().startswith("<!doctype html>")


def test_it_is_written_anew_on_every_call(run: Run) -> None:
    folder = report(run)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"report.json", "report.html"}
    (folder / "report.html").write_text("stale")
    (folder / ".tmp-1-report.html").write_text("left by a killed process")
    report(run)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_table_with_seeds(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, transfer__seeds=[0, 1, 2], transfer__networks=["n_cf", "n_pre"])
    lines = text_table(collect(write_run(config, tmp_path / "run"))).splitlines()
    assert lines[2].split() == ["target", "protocol", "metric", "n_pre", "n_cf", "gain", "chance"]
    assert "58.3 +- 8.3  83.3 +- 8.3  +25.0 +- 0.0    33.3" in lines[4]


def test_partial_run_on_the_terminal(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    assert main(["report", "--output", str(run.folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "No answer yet: nothing has been scored.",
        "",
        "Missing: extract (not begun)",
        "Missing: cluster (not begun)",
        "Missing: retrain (not begun)",
        "Missing: transfer (0 of 6 evaluations)",
    ]


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_text("日本 1.0")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u65e5\\u672c 1.0\n"


def test_names_cannot_steer_the_terminal(run: Run) -> None:
    data = collect(run)
    for entry in data["gains"]:
        entry["target"] = "\x1b[2Jt\r\n"
    assert "\x1b" not in text_table(data)
    assert "⟨U+001B⟩[2Jt⟨U+000D⟩⟨U+000A⟩" in text_table(data)
