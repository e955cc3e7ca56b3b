"""cfvid.report.sheets: pictures of some clusters, whatever state the media are in."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.synthetic_run import write_run
from support.tiny import tiny_config, write_pictures

from cfvid.config import RunConfig
from cfvid.errors import DataError
from cfvid.report.sheets import choose_clusters, make_sheets, shrink
from cfvid.stages import Run


def test_clusters_are_spread_over_sizes_and_tightness() -> None:
    sizes = np.array([10, 10, 50, 50, 2, 2, 0])
    distances = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.0])
    # The tightest of the large, the loosest of the middle, the tightest of the small; the empty one never.
    assert choose_clusters(sizes, distances, 3) == [2, 1, 4]
    assert sorted(choose_clusters(sizes, distances, 20)) == [0, 1, 2, 3, 4, 5]
    assert choose_clusters(sizes, distances, 1) == [0]


def test_sheets_of_a_run(run: Run) -> None:
    found = make_sheets(run)
    assert found.problems == []
    shown = [(sheet.cluster, sheet.num_samples, len(sheet.thumbnails)) for sheet in found.sheets]
    assert shown == [(3, 18, 4), (1, 2, 2), (0, 1, 1)]
    for sheet in found.sheets:
        distances = [t.distance for t in sheet.thumbnails]
        assert distances == sorted(distances), "nearest to the centroid first"
        for thumbnail in sheet.thumbnails:
            assert thumbnail.labels == (thumbnail.sample_id.split("/")[-2],)
            assert thumbnail.jpeg is not None
            assert Image.open(io.BytesIO(thumbnail.jpeg)).size == thumbnail.size == (16, 16)


def test_top_label_counts_the_whole_cluster(run: Run) -> None:
    largest = make_sheets(run).sheets[0]
    # Of 24 samples by id, 8 of each class, the last cluster holds all but the first 6.
    assert largest.num_samples == 18
    assert (largest.top_label, largest.top_share) == ("class1", pytest.approx(8 / 18))


def own_pictures(tmp_path: Path) -> tuple[Run, Path]:
    data = write_pictures(tmp_path / "own")
    config = tiny_config(data, report={"num_sheet_clusters": 3, "num_sheet_samples": 4}, data__skip_budget=0.0)
    return Run(config, write_run(config, tmp_path / "run").folder), data


def test_unreadable_media_cost_their_pictures_only(tmp_path: Path) -> None:
    run, data = own_pictures(tmp_path)
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        if number % 2:
            path.write_bytes(b"not a picture")  # half of all, at a budget of none
    found = make_sheets(run)
    thumbnails = [t for sheet in found.sheets for t in sheet.thumbnails]
    broken = [t for t in thumbnails if t.jpeg is None]
    assert 0 < len(broken) < len(thumbnails)
    assert all(t.reason.startswith("pillow: ") for t in broken)
    assert found.problems == []


def test_data_that_are_gone(tmp_path: Path) -> None:
    run, data = own_pictures(tmp_path)
    shutil.rmtree(data)
    found = make_sheets(run)
    assert len(found.problems) == 1
    assert str(data) in found.problems[0]
    assert all(t.jpeg is None for sheet in found.sheets for t in sheet.thumbnails)


def test_samples_that_are_gone(tmp_path: Path) -> None:
    run, data = own_pictures(tmp_path)
    shutil.rmtree(data / "train" / "class2")
    reasons = {t.reason for sheet in make_sheets(run).sheets for t in sheet.thumbnails if t.jpeg is None}
    assert reasons == {"no longer among the samples"}


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    run, data = own_pictures(tmp_path)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (16, 16)).save(secret)
    for path in data.rglob("*.png"):
        path.unlink()
        path.symlink_to(secret)
    assert all(t.jpeg is None for sheet in make_sheets(run).sheets for t in sheet.thumbnails)


@pytest.mark.parametrize("why", ["no sheets asked for", "nothing clustered"])
def test_the_pool_is_opened_only_for_sheets(
    config: RunConfig, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no sheets asked for":
        config = tiny_config(pictures, report={"num_sheet_clusters": 0})
        run = write_run(config, tmp_path / "run")
    else:
        run = write_run(config, tmp_path / "run", stages=["pretrain", "extract"])

    def refuse(_name: str) -> None:
        raise DataError("opened")

    monkeypatch.setattr(run, "manifest", refuse)
    found = make_sheets(run)
    assert (found.sheets, found.problems) == ([], [])


def test_damaged_pseudo_labels(run: Run) -> None:
    (run.folder / "cluster" / "pseudo_labels.parquet").write_bytes(b"PAR1 no")
    found = make_sheets(run)
    assert found.sheets == []
    assert found.problems[0].startswith("The pseudo-labels cannot be read: ")


@pytest.mark.parametrize("shape", [(2000, 3000, 3), (1, 5000, 3), (5000, 1, 3), (96, 1024, 3)])
def test_thumbnails_are_small(shape: tuple[int, int, int]) -> None:
    jpeg, (width, height) = shrink(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    assert 1 <= width <= 640
    assert 1 <= height <= 176
    assert width == 640 or height == 176
    assert len(jpeg) < 60_000
