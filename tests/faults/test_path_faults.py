"""Fault matrix rows 25 and 33: paths that lead out of their root, and the smallest and oddest pools."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_config, tiny_values, write_pictures
from yaml import safe_dump

from cfvid.artifacts import contained
from cfvid.cli import main
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.manifest_files import read_manifest
from cfvid.errors import DataError
from cfvid.features import FeatureStore
from cfvid.pipeline import run_stages
from cfvid.stages import Run

FITTING = {"pretrain__arch": "resnet10_thin", "transfer__finetune__epochs": 2}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A root with a picture, and a secret outside of it."""
    root = write_pictures(tmp_path / "root", classes=1, train=1, val=1)
    secret = write_pictures(tmp_path / "secret", classes=1, train=1, val=1)
    return {"root": root, "secret": secret}


def hostile_paths(places: dict[str, Path]) -> dict[str, str]:
    root, secret = places["root"], places["secret"] / "train" / "class0" / "000.png"
    (root / "linked.png").symlink_to(secret)
    (root / "linked folder").symlink_to(secret.parent)
    (root / "up").symlink_to("..")
    return {
        "dots": "../secret/train/class0/000.png",
        "dots inside": "train/class0/../../../secret/train/class0/000.png",
        "absolute": str(secret),
        "absolute inside": str(root / "train" / "class0" / "000.png"),
        "linked file": "linked.png",
        "linked folder": "linked folder/000.png",
        "link to the parent": "up/secret/train/class0/000.png",
        "the parent": "..",
    }


@pytest.mark.parametrize("name", ["dots", "dots inside", "absolute", "absolute inside", "linked file", "linked folder",
                                  "link to the parent", "the parent"])  # fmt: skip
def test_row_25_paths_out_of_the_root(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    path = hostile_paths(places)[name]
    (tmp_path / "m.csv").write_text(f"sample_id,path,split\ngood,train/class0/000.png,train\nbad,{path},train\n")
    manifest = read_manifest(tmp_path / "m.csv", media_root=places["root"])
    assert manifest.locate(manifest[0]).is_file()
    for _ in range(2):  # what is remembered of the first time must not open the door
        with pytest.raises(DataError, match="leads out of"):
            manifest.locate(manifest[1])
    with pytest.raises(DataError, match="leads out of"):
        contained(places["root"], path)

    trusting = Manifest(manifest.table, trusted_roots=[str(tmp_path)])
    if name != "the parent":
        assert trusting.locate(trusting[1]).read_bytes().startswith(b"\x89PNG")
    elsewhere = Manifest(manifest.table, trusted_roots=[str(tmp_path / "secre"), "/usr"])
    with pytest.raises(DataError, match="leads out of"):
        elsewhere.locate(elsewhere[1])


def test_row_25_a_folder_is_judged_for_each_root(places: dict[str, Path]) -> None:
    """Of two samples with one relative path, one is below a link that leads out."""
    (places["root"] / "x").symlink_to(places["secret"])
    (places["secret"] / "x").mkdir()
    rows = [Sample(name, "x/000.png", str(places[name]), (), "train", None, None) for name in ("secret", "root")]
    manifest = from_samples(rows)
    assert manifest.locate(manifest[0]) == places["secret"] / "x" / "000.png"
    with pytest.raises(DataError, match="leads out of"):
        manifest.locate(manifest[1])


@pytest.mark.parametrize("path", ["../secret/train/class0/000.png", "/etc/hostname"])
def test_row_25_written_out_paths_end_a_run_before_any_work(
    path: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.csv").write_text(f"sample_id,path,split,label\na,root/x.png,train,a\nb,{path},train,b\n")
    values = tiny_values(tmp_path / "m.csv", **FITTING)
    (tmp_path / "tiny.yaml").write_text(safe_dump(values))
    assert main(["pretrain", "--config", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "run")]) == 3
    told = capsys.readouterr().err
    assert f"{path} leads out of" in told
    assert "data.trusted_roots" in told
    assert not (tmp_path / "run" / "pretrain").exists()


def test_row_25_a_linked_file_ends_extraction(places: dict[str, Path], tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", classes=2, train=2, val=1)
    run_folder = tmp_path / "run"
    (data / "train" / "class0" / "link.png").symlink_to(places["secret"] / "train" / "class0" / "000.png")
    with pytest.raises(DataError, match=r"link.png leads out of"):
        run_stages(tiny_config(data, **FITTING), run_folder, stages=["pretrain"])
    trusted = tiny_config(data, **FITTING, data__trusted_roots=[str(places["secret"])], cluster__num_clusters=2)
    run_stages(trusted, run_folder, stages=["pretrain", "extract"], fresh=True)
    assert "train/class0/link.png" in FeatureStore(run_folder / "extract").ids


# ---------------------------------------------------------------------------------------------- row 33


def stage_error(config: Any, folder: Path, *stages: str) -> str:
    with pytest.raises(DataError) as caught:
        run_stages(config, folder, stages=list(stages))
    return str(caught.value)


def test_row_33_no_samples(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "has no samples" in stage_error(tiny_config(tmp_path / "none"), tmp_path / "run", "pretrain")
    (tmp_path / "none.csv").write_text("sample_id,path,split\n")
    assert "has no samples" in stage_error(tiny_config(tmp_path / "none.csv"), tmp_path / "run", "pretrain")


def test_row_33_one_class(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", classes=1, train=3, val=2)
    config = tiny_config(data, **FITTING)
    assert "only one label, 'class0'" in stage_error(config, tmp_path / "run", "pretrain")


def test_row_33_no_labels(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", classes=1, train=3, val=2) / "train" / "class0"
    told = stage_error(tiny_config(data, **FITTING), tmp_path / "run", "pretrain")
    assert "the split 'train' has no labelled samples" in told


def test_row_33_empty_splits(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", classes=2, train=0, val=2)
    config = tiny_config(data, **FITTING)
    assert "no labelled samples" in stage_error(config, tmp_path / "run", "pretrain")

    data = write_pictures(tmp_path / "more", classes=2, train=2, val=0)
    config = tiny_config(data, **FITTING, cluster__num_clusters=2, transfer__protocols=["linear"])
    run_stages(config, tmp_path / "run2", stages=["pretrain", "extract", "cluster"])
    assert "the split 'val' has no labelled samples" in stage_error(config, tmp_path / "run2", "transfer")


def test_row_33_one_sample_in_the_pool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled = write_pictures(tmp_path / "pictures", classes=2, train=1, val=1)
    pool = write_pictures(tmp_path / "pool", classes=1, train=1, val=1)
    config = tiny_config(labelled, **FITTING, data__clusterfit=str(pool), cluster__num_clusters=1)
    with caplog.at_level(logging.WARNING, logger="cfvid"):
        run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])
    assert len(FeatureStore(tmp_path / "run" / "extract")) == 1
    assert "1 samples for 1 clusters" in caplog.text
    assert "at least 2 are needed" in stage_error(config, tmp_path / "run", "retrain")


def test_row_33_unicode_spaces_and_quotes_in_paths(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "my pictures, 'ü' 日本" / "a\\b", classes=2, train=4, val=2)
    (data / "train" / "class0").rename(data / "train" / 'klaß "0" %s {x}')
    (data / "val" / "class0").rename(data / "val" / 'klaß "0" %s {x}')
    first = data / "train" / "class1" / "000.png"
    first.rename(first.with_name(" leading, trailing .PNG"))
    output = tmp_path / "out put ü"
    config = tiny_config(data, **FITTING, cluster__num_clusters=2, transfer__protocols=["linear"])
    run_stages(config, output, stages=["pretrain", "extract", "cluster", "retrain", "transfer"])
    ids = FeatureStore(output / "extract").ids
    assert len(ids) == 8
    assert "train/class1/ leading, trailing .PNG" in ids
    assert 'klaß "0" %s {x}' in Run(config, output).manifest("target").classes
