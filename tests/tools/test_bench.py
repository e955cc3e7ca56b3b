"""The benchmarks run and give ratios; how fast anything is, is no matter of a test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_benchmarks_give_finite_ratios_and_equal_work(tmp_path: Path) -> None:
    done = bench("all", "--size", "smoke", "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    comparisons = report["comparisons"]

    assert {c["benchmark"] for c in comparisons} == {
        "decode",
        "clips",
        "cache",
        "extract",
        "retrain",
        "cluster",
        "streaming",
        "hierarchical",
        "memory",
        "peaks",
        "probe",
    }
    for comparison in comparisons:
        for name in ("ratio", "ratio_low", "ratio_high", "candidate_rate", "reference_rate"):
            assert math.isfinite(comparison[name]), comparison
            assert comparison[name] > 0, comparison
        assert comparison["what"] in done.stdout
    # Both sides of `decode` looked at the same pixels: the ratio compares equal work.
    decoded = [c["notes"]["identical outputs"] for c in comparisons if c["benchmark"] == "decode"]
    assert decoded == ["4/4", "4/4", "8/8"]
    # pytorchvideo keeps other frames of the same clip where the frame rate is no multiple of the clip's.
    clips = [c["notes"]["identical outputs"] for c in comparisons if c["reference"] in ("raw decord", "raw PyAV")]
    decoders = {c["what"].rpartition(", ")[2] for c in comparisons if c["benchmark"] == "clips"}
    assert decoders >= {"decord first", "pyav first"}
    assert clips == ["8/8"] * 4 * len(decoders)
    cached = [c["notes"]["identical outputs"] for c in comparisons if c["benchmark"] == "cache"]
    assert cached == ["4/4"]
    by_faiss = next(c for c in comparisons if c["reference"] == "faiss.Kmeans")
    assert by_faiss["notes"]["objective ratio"] == pytest.approx(1.0)
    assert report["machine"]["cores"] >= 1


def test_markdown_is_a_table_and_a_wrong_name_lists_the_known_ones() -> None:
    done = bench("cluster", "--size", "smoke", "--markdown")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1

    wrong = bench("decod")
    assert wrong.returncode == 2
    assert "decode" in wrong.stderr
