"""transfer: the protocols of frozen features share one extraction, and their scores are in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import Record
from cfvid.pipeline import run_stages


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = write_pictures(tmp_path_factory.mktemp("pictures"))
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(
        pictures,
        pretrain__training__epochs=4,
        transfer__networks=["n_pre", "random"],
        transfer__protocols=["linear", "knn"],
        transfer__linear__layers=["layer2"],
        transfer__knn__num_neighbours=5,
    )
    run_stages(config, folder, stages=["pretrain", "transfer", "report"])
    return folder


def test_protocols_of_frozen_features_share_one_extraction(run: Path) -> None:
    stores = {path.parent.relative_to(run).as_posix() for path in run.glob("transfer/**/features/*/record.json")}
    assert stores == {
        f"transfer/target/{network}/features/{split}"
        for network in ("n_pre", "random-seed0")
        for split in ("train", "val")
    }


def test_nearest_neighbours_are_scored_at_every_layer(run: Path) -> None:
    folder = run / "transfer" / "target" / "n_pre" / "knn-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"top1", "top1@layer2"}
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    right = np.mean([row["predicted"] == row["label"] for row in rows])
    assert scores["top1"] == pytest.approx(100 * right)
    assert scores["top1"] > 60  # hues, as N_pre has learnt them; chance is 33
    assert Record.read(folder, kind="transfer-scores").facts["num_neighbours"] == 5


def test_they_are_in_the_report(run: Path) -> None:
    page = (run / "report" / "report.html").read_text()
    assert "nearest neighbours" in page
