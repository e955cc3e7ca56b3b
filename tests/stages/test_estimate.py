"""What is said of pseudo-labels before they are trained on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import read_json
from cfvid.errors import ConfigError
from cfvid.features import FeatureStore
from cfvid.pipeline import run_stages
from cfvid.stages import estimate
from cfvid.stages.estimate import _held_out

BEFORE = ["pretrain", "extract", "cluster", "estimate"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def figures(pictures: Path, folder: Path, **changes: object) -> dict:
    run_stages(tiny_config(pictures, pretrain__training__epochs=4, **changes), folder, stages=BEFORE)
    return dict(read_json(folder / "estimate" / "estimate.json"))


def test_the_figures_of_an_estimate(pictures: Path, tmp_path: Path) -> None:
    found = figures(pictures, tmp_path / "run")
    quality = read_json(tmp_path / "run" / "cluster" / "quality.json")
    assert found["effective_share"] == pytest.approx(quality["effective_clusters"] / 4)
    assert found["nmi_training_labels"] == quality["noisy_labels"]["nmi"]
    assert 0 < found["stability_ari"] <= 1
    assert found["probes"]["target"]["raw"] > 80  # the classes are hues, which N_pre has learnt
    assert found["probes"]["target"]["smoothed"] <= 100
    assert not (tmp_path / "run" / "retrain").exists()


def test_the_targets_validation_samples_are_not_looked_at(pictures: Path, tmp_path: Path) -> None:
    figures(pictures, tmp_path / "run")
    looked_at = FeatureStore(tmp_path / "run" / "estimate" / "features" / "target").ids
    assert len(looked_at) == 3 * 8
    assert all("train" in sample_id for sample_id in looked_at)


def test_one_in_four_samples_of_each_class_is_held_out() -> None:
    labels_N = np.array([0] * 8 + [1] * 5 + [2] * 3)
    held_out = _held_out(labels_N, seed=1)
    assert np.bincount(labels_N[held_out], minlength=3).tolist() == [2, 1, 0]
    assert (held_out == _held_out(labels_N, seed=1)).all()
    assert (held_out != _held_out(labels_N, seed=2)).any()


def test_a_target_too_small_to_hold_samples_out_has_no_probe(tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few", train=3)
    assert figures(few, tmp_path / "run")["probes"]["target"] == {"raw": None, "smoothed": None}


def test_of_a_large_target_a_sample_is_probed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The features of a target of 1.28 million samples are not loaded whole: only those of a sample are extracted."""
    monkeypatch.setitem(estimate.__globals__, "MOST_PROBED_VALUES", 18 * 256)
    with caplog.at_level(logging.INFO, logger="cfvid"):
        found = figures(pictures, tmp_path / "run")
    assert "estimate: probes look at 18 of 24 samples of target" in caplog.text
    assert len(FeatureStore(tmp_path / "run" / "estimate" / "features" / "target")) == 18
    assert found["probes"]["target"]["raw"] > 60
    figures(pictures, tmp_path / "run")  # done before, with the same sample


def test_the_estimate_of_streamed_features_is_the_engines_own(pictures: Path, tmp_path: Path) -> None:
    found = figures(pictures, tmp_path / "run", cluster__engine="streaming")
    assert 0 < found["stability_ari"] <= 1
    assert not [*(tmp_path / "run" / "estimate").glob("*.npy")]


def test_one_cluster_keeps_nothing_of_the_features(pictures: Path, tmp_path: Path) -> None:
    found = figures(pictures, tmp_path / "run", cluster__num_clusters=1)
    assert found["probes"]["target"]["smoothed"] == pytest.approx(100 / 3)
    assert found["probes"]["target"]["raw"] > 80
    assert found["stability_ari"] == 1


def test_an_inner_layer_is_probed_where_it_was_clustered(pictures: Path, tmp_path: Path) -> None:
    found = figures(pictures, tmp_path / "run", extract__layer="layer2")
    assert found["probes"]["target"]["raw"] > 80


def test_methods_without_k_means_have_no_stability(pictures: Path, tmp_path: Path) -> None:
    assert figures(pictures, tmp_path / "run", cluster__method="prototypes")["stability_ari"] is None


def test_distilled_labels_have_no_estimate(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no estimate"):
        figures(pictures, tmp_path / "run", cluster__method="distillation")
