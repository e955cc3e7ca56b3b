"""All ways to make pseudo-labels, and what retraining makes of them, in real runs on tiny pictures."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyarrow.parquet as pq
import pytest
import torch
from support.tiny import tiny_config, write_pictures

from cfvid import parts, tables
from cfvid.artifacts import Record, write_json
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.soft import SoftLabels
from cfvid.data.loader import Batch
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import ConfigError, DamagedArtifact, DataError, InputsChanged
from cfvid.features import FeatureStore, FeatureWriter
from cfvid.models.weights import load_network
from cfvid.pipeline import describe_plan, run_stages
from cfvid.report.collect import collect
from cfvid.sections.data import SourceConfig
from cfvid.stages import pool
from cfvid.stages.assign import assign_new
from cfvid.stages.cluster import KIND, assign, load_pseudo_labels, read_pseudo_labels, write_pseudo_labels
from cfvid.stages.context import Run
from cfvid.stages.pool import side_by_side
from cfvid.stages.pretrain import read_noisy_labels
from cfvid.stages.soft_labels import read_soft_labels, write_soft_labels
from cfvid.training.batches import TrainingData
from cfvid.training.objective import Examples
from cfvid.training.targets import PseudoTargets, SoftTargets

SHORT = {"pretrain__training__epochs": 4, "retrain__training__epochs": 1, "pretrain__label_noise": 0.3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def extracted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with features, to be copied."""
    folder = tmp_path_factory.mktemp("extracted") / "run"
    run_stages(tiny_config(pictures, **SHORT), folder, stages=["pretrain", "extract"])
    return folder


@pytest.fixture
def folder(extracted: Path, tmp_path: Path) -> Path:
    """A run with features of its own."""
    return Path(shutil.copytree(extracted, tmp_path / "run"))


def go_on(pictures: Path, folder: Path, *stages: str, **changes: Any) -> Run:
    config = tiny_config(pictures, **SHORT, **changes)
    run_stages(config, folder, stages=stages or ["cluster", "retrain"])
    return Run(config, folder)


def soft_of(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Ids, classes and shares of a cluster folder; None where there are hard labels only."""
    found = list(read_soft_labels(folder, Record.read(folder, kind=KIND)))
    if not found:
        return None
    return (
        [sample_id for ids, _, _ in found for sample_id in ids],
        np.concatenate([classes for _, classes, _ in found]),
        np.concatenate([shares for _, _, shares in found]),
    )


def soft_labels(classes_NT: np.ndarray, shares_NT: np.ndarray) -> SoftLabels:
    """Soft labels that are there."""
    num, size = classes_NT.shape
    return SoftLabels((num, size), lambda rows: (classes_NT[rows], shares_NT[rows]))


def quality_of(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "cluster" / "quality.json").read_text())
    return figures


# ---------------------------------------------------------------------------------------------- methods


def test_per_label_takes_the_labels_that_n_pre_was_trained_on(pictures: Path, folder: Path) -> None:
    run = go_on(pictures, folder, cluster__method="per_label", cluster__num_clusters=6)
    noisy, cluster_of = read_noisy_labels(folder / "pretrain"), read_pseudo_labels(folder / "cluster")
    names: dict[int, set[str]] = {}
    for sample_id, cluster in cluster_of.items():
        names.setdefault(cluster, set()).add(noisy[sample_id][0])
    assert len(names) == 6
    assert all(len(labels) == 1 for labels in names.values())
    assert quality_of(folder)["noisy_labels"]["purity"] == 1
    assert quality_of(folder)["labels"]["purity"] < 1
    assert (folder / "retrain" / "network" / "model.safetensors").is_file()
    assert "labels" in Record.read(folder / "cluster", kind=KIND).inputs
    assert collect(run)["problems"] == []


def test_prototypes_have_as_many_clusters_as_labels(
    pictures: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cfvid"):
        go_on(pictures, folder, cluster__method="prototypes", cluster__num_clusters=1000)
    assert "3 prototypes" in caplog.text
    assert set(read_pseudo_labels(folder / "cluster").values()) <= {0, 1, 2}
    ids, clusters, _ = assign(folder / "cluster", FeatureStore(folder / "extract"), FaissEngine())
    assert dict(zip(ids, clusters.tolist(), strict=True)) == read_pseudo_labels(folder / "cluster")
    config = tiny_config(pictures, **SHORT, cluster__method="prototypes", cluster__num_clusters=1000)
    assert "cluster      prototypes" in describe_plan(config, folder)


def test_distillation_learns_the_outputs_of_n_pre(
    pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_training(monkeypatch)
    run = go_on(pictures, folder, cluster__method="distillation", cluster__temperature=2.5)
    [data] = seen
    assert isinstance(data.objective, SoftTargets)
    assert data.objective.temperature == 2.5
    n_pre, _ = load_network(folder / "pretrain" / "network")
    n_cf, _ = load_network(folder / "retrain" / "network")
    assert n_cf.num_classes == n_pre.num_classes == 3
    found = soft_of(folder / "cluster")
    assert found is not None
    ids, _, shares_NT = found
    assert shares_NT.shape == (24, 3)
    np.testing.assert_allclose(shares_NT.sum(1), 1, rtol=1e-5)
    cluster_of = read_pseudo_labels(folder / "cluster")
    assert [cluster_of[i] for i in ids] == shares_NT.argmax(1).tolist()
    assert data.ids == ids
    np.testing.assert_allclose(examples_of(data).target.numpy(), shares_NT)
    with pytest.raises(ConfigError, match="cannot be assigned"):
        assign_new(run, SourceConfig(path=str(pictures)), folder / "out.parquet")
    (folder / "cluster" / "soft_labels.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DamagedArtifact, match="soft_labels"):
        soft_of(folder / "cluster")


def record_training(monkeypatch: pytest.MonkeyPatch) -> list[TrainingData]:
    """What the training loop gets; it still runs."""
    from cfvid.stages import fit

    seen: list[TrainingData] = []
    train = fit.train

    def recording(network: Any, data: TrainingData, **settings: Any) -> Any:
        seen.append(data)
        return train(network, data, **settings)

    monkeypatch.setattr(fit, "train", recording)
    return seen


def examples_of(data: TrainingData) -> Examples:
    """What is learnt of all samples."""
    views = torch.empty(len(data.ids), 1)
    return data.objective.examples(views, Batch([*data.ids], views, [0] * len(data.ids)))


@pytest.mark.parametrize("method", ["distillation", "prototypes"])
def test_streamed_features_come_to_the_same_bytes(
    method: str, pictures: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is fitted, it makes no difference whether a million features are held or read in blocks."""
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    go_on(pictures, folder, "cluster", cluster__method=method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_MOST_BYTES", 0)  # of which `auto` holds features in memory
        go_on(pictures, other, "cluster", cluster__method=method)
    assert "engine" not in Record.read(other / "cluster", kind=KIND).inputs
    assert (other / "cluster" / "record.json").read_bytes() == (folder / "cluster" / "record.json").read_bytes()
    assert not (other / "cluster" / "points.npy").exists()
    # In many parts, whose products of few rows round in their own way.
    monkeypatch.setattr(parts, "MOST_VALUES", 20)
    shutil.rmtree(other / "cluster")
    go_on(pictures, other, "cluster", cluster__method=method, cluster__engine="streaming")
    assert read_pseudo_labels(other / "cluster") == read_pseudo_labels(folder / "cluster")
    held, streamed = soft_of(folder / "cluster"), soft_of(other / "cluster")
    if held is not None and streamed is not None:
        assert streamed[0] == held[0]
        np.testing.assert_array_equal(streamed[1], held[1])
        np.testing.assert_allclose(streamed[2], held[2], rtol=1e-4)
        assert pq.read_metadata(other / "cluster" / "soft_labels.parquet").num_row_groups > 1


def test_features_of_another_network_are_not_distilled(pictures: Path, folder: Path, tmp_path: Path) -> None:
    changed = {"pretrain__training__lr": 0.5}
    run_stages(tiny_config(pictures, **SHORT, **changed), tmp_path / "other", stages=["pretrain"])
    shutil.rmtree(folder / "pretrain")
    shutil.copytree(tmp_path / "other" / "pretrain", folder / "pretrain")
    with pytest.raises(InputsChanged, match="another network"):
        go_on(pictures, folder, "cluster", cluster__method="distillation", **changed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster__method": "per_label", "cluster__num_clusters": 2}, "fewer than the 3 labels"),
        ({"cluster__method": "distillation", "extract__layer": "layer2"}, "extract.layer is layer2"),
        ({"cluster__method": "distillation", "retrain__confidence_weights": True}, "second centroid"),
        ({"cluster__method": "per_label", "retrain__confidence_weights": True}, "second centroid"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(
    pictures: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_stages(tiny_config(pictures, **SHORT, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_an_n_pre_without_a_trained_head_cannot_be_distilled(pictures: Path, extracted: Path, tmp_path: Path) -> None:
    network = extracted / "pretrain" / "network"
    brought = tiny_config(pictures, cluster__method="distillation", pretrain__weights=str(network))
    run_stages(brought, tmp_path / "fine", stages=["pretrain", "extract", "cluster"])
    assert soft_of(tmp_path / "fine" / "cluster") is not None
    headless = tmp_path / "headless.safetensors"
    shutil.copy(network / "model.safetensors", headless)
    config = tiny_config(pictures, cluster__method="distillation", pretrain__weights=str(headless))
    with pytest.raises(ConfigError, match="no last layer"):
        run_stages(config, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_a_pool_without_labels_has_no_prototypes(pictures: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, path in enumerate(sorted((pictures / "train").rglob("*.png"))):
        shutil.copy(path, pool / f"{number}.png")
    config = tiny_config(pictures, data__clusterfit=str(pool), cluster__method="prototypes")
    with pytest.raises(ConfigError, match="no sample of the pool has a label"):
        run_stages(config, tmp_path / "run")


# ---------------------------------------------------------------------------------------------- options


def test_the_default_has_hard_labels_alone_and_trains_on_each_sample_once(
    pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_training(monkeypatch)
    go_on(pictures, folder)
    assert soft_of(folder / "cluster") is None
    assert "num_merged" not in quality_of(folder)
    [data] = seen
    assert isinstance(data.objective, PseudoTargets)
    assert examples_of(data).weights is None
    assert data.groups_N is None
    assert len(data.ids) == 24


def test_soft_labels_tiny_clusters_weights_and_sampling(
    pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_training(monkeypatch)
    run = go_on(
        pictures,
        folder,
        cluster__num_clusters=9,
        cluster__merge_tiny_below=2,
        cluster__soft_top=2,
        retrain__sampling="balanced",
        retrain__confidence_weights=True,
        retrain__keep_nearest=0.6,
    )
    labels, figures = load_pseudo_labels(folder / "cluster"), quality_of(folder)
    sizes = np.bincount(labels.clusters_N)
    assert sizes.min() >= 2
    assert figures["num_merged"] + figures["num_empty"] == 9 - len(sizes)
    assert (labels.second_distances_N >= labels.distances_N - 1e-6).all()
    found = soft_of(folder / "cluster")
    assert found is not None
    assert found[1].shape == (24, 2)
    [data] = seen
    assert isinstance(data.objective, SoftTargets)
    assert data.objective.temperature == 1.0
    cluster_of = read_pseudo_labels(folder / "cluster")
    assert data.groups_N is not None
    assert data.groups_N.tolist() == [cluster_of[i] for i in data.ids]
    kept = Counter(cluster_of[i] for i in data.ids)
    assert kept == {k: max(1, round(0.6 * size)) for k, size in enumerate(sizes.tolist())}
    weights = examples_of(data).weights
    assert weights is not None
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert load_network(folder / "retrain" / "network")[0].num_classes == len(sizes)
    assert collect(run)["problems"] == []


def test_soft_labels_come_back_as_they_were_written(tmp_path: Path) -> None:
    classes, shares = np.array([[3, 1], [0, 2]], np.int32), np.array([[0.9, 0.1], [0.5, 0.5]], np.float32)
    write_soft_labels(tmp_path / "soft_labels.parquet", SampleIds(["x", "y"]), soft_labels(classes, shares))
    Record.write(tmp_path, kind=KIND, inputs={}, files=["soft_labels.parquet"])
    found = soft_of(tmp_path)
    assert found is not None
    assert found[0] == ["x", "y"]
    np.testing.assert_array_equal(found[1], classes)
    np.testing.assert_array_equal(found[2], shares)


def test_one_cluster_is_told_as_such_whatever_the_options(pictures: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="all samples are in one cluster"):
        go_on(pictures, folder, cluster__num_clusters=1, retrain__confidence_weights=True)


# ---------------------------------------------------------------------------------------------- several networks


def write_store(folder: Path, ids: list[str], features: np.ndarray) -> Path:
    write_json(folder / "inputs.json", {"made": folder.name})
    writer = FeatureWriter(folder, ids, shard_size=7)
    for shard in range(writer.num_shards):
        own = list(writer.ids_of(shard))
        rows = features[[ids.index(i) for i in own]]
        writer.write(shard, ids=own, features=rows, skips=[], fallbacks=Counter(), num_views=1)
    writer.finish()
    return folder


def test_features_are_joined_by_id_whatever_their_order_and_scale(
    pictures: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = FeatureStore(folder / "extract")
    rng = np.random.default_rng(0)
    # One number says which sample it is; four samples are missing, one is foreign, and the order is another.
    ids = [own.ids[i] for i in rng.permutation(24)[:20]] + ["foreign"]
    features = np.array([[np.cos(a), np.sin(a)] for a in (own.ids.index(i) if i in own.ids else 0 for i in ids)]) * 900
    more = write_store(tmp_path / "more", ids, features.astype(np.float32))
    with caplog.at_level(logging.INFO, logger="cfvid"):
        run = go_on(pictures, folder, cluster__more_features=[str(more)])
    assert "4 of 24 samples are not in all feature stores" in caplog.text
    labels = load_pseudo_labels(folder / "cluster")
    common = [i for i in own.ids if i in ids]
    assert labels.ids == common
    record = Record.read(folder / "cluster", kind=KIND)
    assert record.facts["num_left_out"] == 4
    assert record.inputs["more_features"] == [Record.read(more, kind="features").digest]
    assert len(np.load(folder / "cluster" / "centroids.npy")[0]) == own.shape[0] + 2
    # The distances are those of a join that was done by hand.
    angles = np.array([own.ids.index(i) for i in common])
    ours = own.gather(common)
    points = np.concatenate([ours / np.linalg.norm(ours, axis=1, keepdims=True), np.cos(angles)[:, None]], axis=1)
    points = np.concatenate([points, np.sin(angles)[:, None]], axis=1) / np.sqrt(2)
    centroids = np.load(folder / "cluster" / "centroids.npy")
    np.testing.assert_allclose(
        labels.distances_N, ((points - centroids[labels.clusters_N]) ** 2).sum(1), rtol=1e-3, atol=1e-4
    )
    assert collect(run)["problems"] == []
    shutil.move(more, tmp_path / "moved")  # what they hold counts, not where they are
    go_on(pictures, folder, cluster__more_features=[str(tmp_path / "moved")])
    with pytest.raises(ConfigError, match="several networks"):
        assign(folder / "cluster", own, FaissEngine())


def test_stores_that_do_not_fit_are_refused(pictures: Path, folder: Path, tmp_path: Path) -> None:
    foreign = write_store(tmp_path / "foreign", ["a", "b"], np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match="no sample is in all"):
        go_on(pictures, folder, "cluster", cluster__more_features=[str(foreign)])
    shutil.rmtree(folder / "cluster")
    views = write_store(tmp_path / "views", ["a", "b"], np.ones((2, 3, 4), np.float32))
    with pytest.raises(ConfigError, match="not one vector per sample"):
        go_on(pictures, folder, "cluster", cluster__more_features=[str(views)])
    with pytest.raises(ConfigError, match="nowhere is no complete feature store"):
        go_on(pictures, folder, "cluster", cluster__more_features=["/nowhere"])


def test_features_side_by_side_have_unit_length_and_equal_parts() -> None:
    rng = np.random.default_rng(0)
    joined = side_by_side(
        [rng.normal(size=(9, 3)).astype(np.float32) * 100, rng.normal(size=(9, 5)).astype(np.float32)]
    )
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(joined[:, :3], axis=1), np.sqrt(0.5), rtol=1e-5)
    assert joined.dtype == np.float32


@pytest.mark.parametrize("num", [0, 1, 10, 35])
def test_labels_that_are_written_in_parts_have_the_bytes_of_a_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    monkeypatch.setattr(tables, "GROUP_ROWS", 10)
    rng = np.random.default_rng(0)
    ids, clusters, shares = [f"s{i}" for i in range(num)], rng.integers(9, size=num), rng.random((num, 2), np.float32)
    classes = rng.integers(9, size=(num, 2), dtype=np.int32)
    columns = {"sample_id": pa.chunked_array([ids[:7], ids[7:]], pa.string())}
    write_pseudo_labels(tmp_path / "labels", SampleIds(ids), clusters, *shares.T)
    write_soft_labels(tmp_path / "soft", SampleIds(ids), soft_labels(classes, shares))
    expected = {
        "labels": {"cluster": clusters.astype(np.int32), "distance": shares[:, 0], "second_distance": shares[:, 1]},
        "soft": {
            "classes": pa.array(classes.tolist(), pa.list_(pa.int32())),
            "shares": pa.array(shares.tolist(), pa.list_(pa.float32())),
        },
    }
    for name, values in expected.items():
        pyarrow.parquet.write_table(pa.table(columns | values), tmp_path / "whole", row_group_size=10)
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole").read_bytes()
