"""The whole pipeline on tiny pictures, and what the same command does again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import Record
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.features import FeatureStore
from cfvid.models.weights import load_network
from cfvid.pipeline import TRAIN, run_stages
from cfvid.stages.cluster import assign, read_pseudo_labels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), train=10)


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pipeline") / "run"
    config = tiny_config(
        pictures,
        pretrain__training__epochs=6,
        retrain__training__epochs=6,
        retrain__arch="resnet10_small",
        transfer__seeds=[0, 1],
    )
    run_stages(config, output)
    return output


def test_every_stage_is_complete(run: Path) -> None:
    for stage in ("pretrain", "extract", "cluster", "retrain"):
        assert (run / stage / "record.json").is_file()
        assert json.loads((run / stage / "cost.json").read_text())["seconds"] > 0
    assert (run / "config.yaml").is_file()
    assert (run / "report" / "report.json").is_file()
    assert (run / "report" / "report.html").is_file()
    assert not list(run.rglob(".tmp-*"))
    assert not list(run.rglob("states"))


def test_scores_cover_every_network_protocol_and_seed(run: Path) -> None:
    scores = json.loads((run / "report" / "report.json").read_text())["scores"]
    assert {(s["network"], s["protocol"], s["seed"]) for s in scores} == {
        (network, protocol, seed)
        for network in ("n_pre", "n_cf", "random")
        for protocol in ("linear", "finetune")
        for seed in (0, 1)
    }
    assert {s["metric"] for s in scores} == {"top1"}  # three classes, one view
    assert all(0 <= s["value"] <= 100 for s in scores)
    linear = {s["network"]: s["value"] for s in scores if s["protocol"] == "linear" and s["seed"] == 0}
    assert linear["n_pre"] > 80  # the classes are hues; chance is 33


def test_n_cf_is_a_new_network_of_its_own_architecture(run: Path) -> None:
    n_pre, _ = load_network(run / "pretrain" / "network")
    n_cf, saved = load_network(run / "retrain" / "network")
    assert (n_pre.arch, n_cf.arch) == ("resnet10_thin", "resnet10_small")
    assert n_cf.num_classes == 1 + max(read_pseudo_labels(run / "cluster").values())
    assert saved.classes == []


def test_assigning_the_clustered_samples_gives_their_pseudo_labels(run: Path) -> None:
    ids, clusters, distances = assign(run / "cluster", FeatureStore(run / "extract"), FaissEngine())
    assert dict(zip(ids, clusters.tolist(), strict=True)) == read_pseudo_labels(run / "cluster")
    assert (distances >= 0).all()


def test_quality_figures_agree_with_the_pseudo_labels(run: Path) -> None:
    quality = json.loads((run / "cluster" / "quality.json").read_text())
    sizes = np.bincount(list(read_pseudo_labels(run / "cluster").values()))
    assert quality["sizes"] == sizes.tolist()
    assert quality["labels"]["num_samples"] == 30
    assert 0 < quality["labels"]["nmi"] <= 1
    assert quality["objective"][-1] <= quality["objective"][0]


def test_the_same_command_again_does_nothing(run: Path, pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("record.json")}
    config = tiny_config(
        pictures,
        pretrain__training__epochs=6,
        retrain__training__epochs=6,
        retrain__arch="resnet10_small",
        transfer__seeds=[0, 1],
    )
    with caplog.at_level(logging.INFO, logger="cfvid"):
        run_stages(config, run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("record.json")} == before
    for stage in ("pretrain", "cluster", "retrain"):
        assert f"{stage}: done before" in caplog.text


def test_another_seed_of_transfer_adds_to_what_is_there(run: Path, pictures: Path) -> None:
    config = tiny_config(
        pictures,
        pretrain__training__epochs=6,
        retrain__training__epochs=6,
        retrain__arch="resnet10_small",
        transfer__seeds=[2],
        transfer__protocols=["linear"],
    )
    done = run / "transfer" / "target" / "n_pre" / "linear-seed0" / "record.json"
    before = done.stat().st_mtime_ns
    run_stages(config, run, stages=["transfer"])
    assert (run / "transfer" / "target" / "n_pre" / "linear-seed2" / "scores.json").is_file()
    assert done.stat().st_mtime_ns == before


def test_the_same_configuration_gives_the_same_bytes(run: Path, pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, pretrain__training__epochs=6)
    run_stages(config, tmp_path / "again", stages=["pretrain", "extract", "cluster"])
    for stage, kind in (("pretrain", "pretrain"), ("extract", "features"), ("cluster", "pseudo-labels")):
        first, second = Record.read(run / stage, kind=kind), Record.read(tmp_path / "again" / stage, kind=kind)
        names = [name for name in first.files if not name.startswith("network/config")]
        assert {n: first.files[n] for n in names if "record" not in n} == {
            n: second.files[n] for n in names if "record" not in n
        }


def test_an_unlabelled_pool_can_be_clustered_and_retrained_on(pictures: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, path in enumerate(sorted((pictures / "train").rglob("*.png"))):
        (pool / f"{number:03d}.png").write_bytes(path.read_bytes())
    config = tiny_config(pictures, data__clusterfit=str(pool), pretrain__training__epochs=1)
    run_stages(config, tmp_path / "run", stages=[s for s in TRAIN if s not in ("transfer", "report")])
    quality = json.loads((tmp_path / "run" / "cluster" / "quality.json").read_text())
    assert quality["labels"] is None
    assert (tmp_path / "run" / "retrain" / "network" / "model.safetensors").is_file()


@pytest.mark.parametrize("layer", ["layer2", "layer3"])
def test_features_of_a_named_layer(pictures: Path, tmp_path: Path, layer: str) -> None:
    config = tiny_config(pictures, pretrain__training__epochs=1, extract__layer=layer)
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract"])
    assert FeatureStore(tmp_path / "run" / "extract").shape == ({"layer2": 64, "layer3": 128}[layer],)
