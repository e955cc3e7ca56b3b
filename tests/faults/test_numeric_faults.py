"""Fault rows 21, 22 and 23: losses, gradients and features that are not finite; degenerate clusterings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny_config, write_pictures

from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.health import symptoms_of
from cfvid.clustering.quality import size_figures
from cfvid.errors import ConfigError, DataError, TrainingError
from cfvid.features import FeatureStore
from cfvid.models.zoo import LayerFeatures
from cfvid.pipeline import run_stages
from cfvid.sections.stages import HealthConfig
from cfvid.training import loop


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    real, calls, seen = torch.nn.functional.cross_entropy, 0, []

    def faulty(logits: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(logits, *args, **kwargs) * (value if calls == 5 else 1.0)

    def note(accelerator: object, folder: Path, progress: loop.Progress) -> None:
        seen.append(progress.step)
        save(accelerator, folder, progress)

    save = loop.save_state
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", faulty)
    monkeypatch.setattr(loop, "save_state", note)
    with pytest.raises(TrainingError, match="step 5") as stopped:
        run_stages(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    assert "loss" in str(stopped.value)
    assert seen == [3]  # the state of the last epoch's end is the newest
    assert [p.name for p in (tmp_path / "run" / "pretrain" / "states").iterdir()] == ["epoch-0001-batch-000000"]
    monkeypatch.undo()
    run_stages(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    assert (tmp_path / "run" / "pretrain" / "record.json").is_file()


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_a, **_k: updates.append(1))
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda _grads: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match="gradient norm"):
        run_stages(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    assert updates == []


def test_features_that_are_not_finite_stop_the_extraction_and_are_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(pictures)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    real, calls = LayerFeatures.forward, 0

    def faulty(self: LayerFeatures, batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += batch.device.type != "meta"  # the check before any work looks at shapes alone
        features = real(self, batch)
        if calls == 4:
            features[1, 3] = float("nan")
        return features

    monkeypatch.setattr(LayerFeatures, "forward", faulty)
    with pytest.raises(TrainingError) as stopped:
        run_stages(config, tmp_path / "run", stages=["extract"])
    # Shards of 5 in batches of 3 and 2: the fourth batch is samples 8 and 9 of the sorted ids.
    assert "train/class1/001.png" in str(stopped.value)
    assert not (tmp_path / "run" / "extract" / "record.json").exists()
    monkeypatch.undo()
    run_stages(config, tmp_path / "run", stages=["extract"])
    assert len(FeatureStore(tmp_path / "run" / "extract")) == 24


def larger(monkeypatch: pytest.MonkeyPatch, scale: float, *, of_every: int = 1) -> None:
    """All features of every n-th batch are larger by a factor."""
    real, calls = LayerFeatures.forward, 0

    def forward(self: LayerFeatures, batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += batch.device.type != "meta"
        features = real(self, batch)
        return features * scale if calls % of_every == 0 else features

    monkeypatch.setattr(LayerFeatures, "forward", forward)


@pytest.mark.parametrize("engine", ["faiss", "streaming"])
def test_a_shard_whose_features_fp16_cannot_hold_is_kept_in_fp32(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    """An untrained ResNet-101's features pass 65,504: the run ended there, after its training."""
    config = tiny_config(pictures, cluster__engine=engine, transfer__protocols=["linear", "knn", "finetune"])
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    shutil.copytree(tmp_path / "run", tmp_path / "usual")
    shutil.copytree(tmp_path / "run", tmp_path / "fp32")
    run_stages(config, tmp_path / "usual", stages=["extract"])
    larger(monkeypatch, 1e6, of_every=4)  # of shards of 5 in batches of 3 and 2, the second and the fourth
    run_stages(config, tmp_path / "run")
    monkeypatch.undo()
    larger(monkeypatch, 1e6, of_every=4)
    run_stages(tiny_config(pictures, extract__dtype="fp32"), tmp_path / "fp32", stages=["extract"])
    store = FeatureStore(tmp_path / "run" / "extract")
    assert store.record.facts["overflowing_shards"] == [1, 3]
    assert "extract: 2 of 5 shards are kept in fp32" in caplog.text
    for shard in range(5):
        wanted = "fp32" if shard in (1, 3) else "usual"
        name = f"extract/shards/{shard:05d}.npy"
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / wanted / name).read_bytes()
    assert "overflow" not in (tmp_path / "usual" / "extract" / "record.json").read_text()
    features_ND = store.gather(store.ids)
    assert np.isfinite(features_ND).all()
    assert features_ND.max() > 65504
    assert json.loads((tmp_path / "run" / "cluster" / "quality.json").read_text())["num_clusters"] > 1


@pytest.mark.parametrize(("scale", "told"), [(float("inf"), "NaN or infinity"), (1e25, r"larger than 1e\+17")])
def test_features_that_no_distance_fits_stay_an_error(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, told: str
) -> None:
    run_stages(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    larger(monkeypatch, scale)
    with pytest.raises(TrainingError, match=told):
        run_stages(tiny_config(pictures), tmp_path / "run", stages=["extract"])


def test_more_clusters_than_samples_is_an_error(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, cluster__num_clusters=25, pretrain__training__epochs=1)
    with pytest.raises(ConfigError, match="only 24 samples"):
        run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])


def test_identical_features_are_reported_as_a_collapse(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(pictures, pretrain__training__epochs=1)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    real = LayerFeatures.forward
    monkeypatch.setattr(LayerFeatures, "forward", lambda self, batch: torch.ones_like(real(self, batch)))
    run_stages(config, tmp_path / "run", stages=["extract", "cluster"])
    quality = json.loads((tmp_path / "run" / "cluster" / "quality.json").read_text())
    assert quality["num_clusters"] == 1
    assert quality["num_empty"] == 3
    assert "collapsed" in caplog.text
    with pytest.raises(DataError, match="one cluster"):
        run_stages(config, tmp_path / "run", stages=["retrain"])


def test_500_equal_rows_leave_empty_clusters_that_are_counted() -> None:
    points_ND = np.ones((500, 8), dtype=np.float32)
    engine = FaissEngine()
    fitted = engine.fit(
        points_ND,
        num_clusters=10,
        spherical=False,
        iterations=10,
        restarts=1,
        max_points_per_centroid=None,
        seed=1,
    )
    clusters, _ = engine.assign(points_ND, fitted.centroids_KD)
    used, compact = np.unique(clusters, return_inverse=True)
    figures = size_figures(compact, num_asked=10)
    assert len(used) < 10
    assert figures["num_empty"] == 10 - len(used)
    assert any("empty" in symptom.text for symptom in symptoms_of(figures, HealthConfig()))
