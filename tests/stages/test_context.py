"""Runs that share the work of their stages, and samples that are known without reading a source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from support.media import write_video
from support.tiny import configure, tiny_config, tiny_values, write_pictures

from cfvid.errors import DamagedArtifact
from cfvid.media import clip_cache
from cfvid.pipeline import run_stages
from cfvid.stages import Run, cluster, context, extract, pretrain


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_equal_work_is_done_once_and_other_work_apart(pictures: Path, tmp_path: Path) -> None:
    shared = tmp_path / "stages"
    for name, num_clusters in (("a", 3), ("b", 4)):
        config = tiny_config(pictures, pretrain__training__epochs=1, cluster__num_clusters=num_clusters)
        run = Run(config, tmp_path / name, shared=shared)
        for stage in (pretrain, extract, cluster):
            stage(run)
    a, b = tmp_path / "a", tmp_path / "b"
    assert (a / "pretrain").resolve() == (b / "pretrain").resolve()
    assert (a / "extract").resolve() == (b / "extract").resolve()
    assert (a / "cluster").resolve() != (b / "cluster").resolve()
    counts = [json.loads((run / "cluster" / "record.json").read_text())["facts"]["num_clusters"] for run in (a, b)]
    assert counts == [3, 4]
    assert sorted(path.name for path in shared.iterdir()) == ["cluster", "extract", "pretrain"]


def test_the_clip_cache_changes_no_training_and_is_told_when_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clip_cache, "_LARGEST_SHARE", 1.0)
    for label in ("a", "b"):
        (tmp_path / "media" / "train" / label).mkdir(parents=True)
        for number in range(3):
            write_video(tmp_path / "media" / "train" / label / f"{number}.mp4", 12)
    losses = {}
    for name, limit_gb in (("without", None), ("some", 1e-4), ("all", 1.0)):
        values = tiny_values(tmp_path / "media", input__cache_short_side=32, data__targets={})
        values["modality"] = "frame"
        if limit_gb is not None:
            values["runtime"] |= {"clip_cache": str(tmp_path / name), "clip_cache_gb": limit_gb}
        caplog.clear()
        pretrain(Run(configure(values), tmp_path / f"run-{name}"))
        told = [record for record in caplog.records if "runtime.clip_cache" in record.getMessage()]
        assert len(told) == (name == "some")
        lines = (tmp_path / f"run-{name}" / "pretrain" / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line).get("loss") for line in lines]
    assert losses["without"] == losses["some"] == losses["all"]
    assert 0 < len([*(tmp_path / "some").glob("*.clip")]) < len([*(tmp_path / "all").glob("*.clip")]) == 6


def test_a_changed_setting_leads_to_other_work_and_the_old_stays(pictures: Path, tmp_path: Path) -> None:
    for epochs in (1, 2, 1):
        config = tiny_config(pictures, pretrain__training__epochs=epochs)
        pretrain(Run(config, tmp_path / "run", shared=tmp_path / "stages"))
    assert len(list((tmp_path / "stages" / "pretrain").iterdir())) == 2
    link = tmp_path / "run" / "pretrain"
    assert link.is_symlink()
    assert json.loads((link / "inputs.json").read_text())["pretrain"]["training"]["epochs"] == 1


# ---------------------------------------------------------------------------------------------- pools that are not read


@pytest.fixture
def extracted(pictures: Path, tmp_path: Path) -> Path:
    """A run of samples with labels and noisy ones, up to its features."""
    config = tiny_config(pictures, pretrain__training__epochs=1, pretrain__label_noise=0.2)
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract"])
    return tmp_path / "run"


def _clustered(folder: Path, pictures: Path, *, with_manifests: bool = False) -> dict[str, Any]:
    config = tiny_config(pictures, pretrain__training__epochs=1, pretrain__label_noise=0.2)
    if with_manifests:
        run = Run(config, folder)
        run.manifest("pretrain"), run.manifest("clusterfit")
        cluster(run)
    else:
        run_stages(config, folder, stages=["cluster"])
    figures: dict[str, Any] = json.loads((folder / "cluster" / "quality.json").read_text())
    shutil.rmtree(folder / "cluster")
    return figures


def test_clustering_alone_reads_no_source_and_finds_the_same_labels(
    pictures: Path, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _clustered(extracted, pictures, with_manifests=True)
    assert expected["labels"]["num_samples"] == expected["noisy_labels"]["num_samples"] == 24
    assert expected["labels"] != expected["noisy_labels"]

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a source was read")

    monkeypatch.setattr(context, "read_sources", read)
    assert _clustered(extracted, pictures) == expected


def test_media_that_have_moved_are_read_anew(pictures: Path, extracted: Path, tmp_path: Path) -> None:
    expected = _clustered(extracted, pictures)
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    for path in (extracted / "data").glob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        gone = pa.array([str(tmp_path / "gone")] * len(table))
        pyarrow.parquet.write_table(table.set_column(table.column_names.index("root"), "root", gone), path)
    assert _clustered(extracted, moved) == expected


def test_a_damaged_snapshot_is_told_and_can_be_removed(pictures: Path, extracted: Path) -> None:
    expected = _clustered(extracted, pictures)
    path = extracted / "data" / "clusterfit.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedArtifact, match=r"clusterfit\.parquet is damaged[\s\S]*Remove it"):
        _clustered(extracted, pictures)
    path.unlink()
    assert _clustered(extracted, pictures) == expected
