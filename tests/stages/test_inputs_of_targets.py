"""Targets that are looked at, or scored, otherwise than the rest of the run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.media import write_video
from support.tiny import SIDE, configure, tiny_config, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.data.cards import not_mirrored
from cfvid.data.loader import Request
from cfvid.errors import ConfigError
from cfvid.experiments.cells import expand
from cfvid.experiments.spec import read_experiment
from cfvid.loading import shipped_files
from cfvid.modalities.frame import FrameInput, FrameModality
from cfvid.modalities.image import ImageInput, ImageModality
from cfvid.pipeline import run_stages
from cfvid.preflight import check
from cfvid.stages import Run
from cfvid.yaml_layers import read_yaml


def test_a_target_has_its_own_input_and_protocols(tmp_path: Path) -> None:
    """Something-Something was mirrored, and VOC07's whole pictures could not be asked for beside other targets."""
    data = write_pictures(tmp_path / "data")
    config = tiny_config(
        data,
        data__targets={"plain": str(data), "own": str(data)},
        pretrain__training__epochs=1,
        transfer__networks=["random"],
        transfer__protocols=["knn", "finetune"],
        transfer__protocols_by_target={"own": ["finetune", "heads"]},
        transfer__input={"by_target": {"own": {"flip": False, "crop_size": 12, "eval_shape": "whole"}}},
        transfer__heads={"epochs": 1, "batch_size": 8},
    )
    folder = tmp_path / "run"
    run_stages(config, folder, stages=["transfer", "report"])
    done = {path.parent.name for path in folder.glob("transfer/*/random-seed0/*-seed0/scores.json")}
    assert done == {"knn-seed0", "finetune-seed0", "heads-seed0"}

    def options(target: str, protocol: str) -> dict[str, Any]:
        home = folder / "transfer" / target / "random-seed0" / f"{protocol}-seed0"
        found: dict[str, Any] = Record.read(home, kind="transfer-scores").inputs["input"]
        return found

    assert not (folder / "transfer" / "own" / "random-seed0" / "knn-seed0").exists()
    own, plain = options("own", "finetune"), options("plain", "finetune")
    assert (own["flip"], own["crop_size"], own["eval_shape"]) == (False, 12, "whole")
    assert (plain["flip"], plain["crop_size"], "eval_shape" in plain) == (True, SIDE, False)
    report = json.loads((folder / "report" / "report.json").read_text())
    assert {s["name"]: s["note"] for s in report["stages"]}["transfer"] == "4 of 4 evaluations"


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"flips": False}, r"unknown key transfer\.input\.by_target\.target\.flips"),
        ({"crop_size": 99}, r"transfer\.input\.by_target\.target: resize \(16\) must be at least crop_size \(99\)"),
        ({"eval_shape": "whole", "score_crops": 3}, "eval_shape: whole is one look at a picture"),
    ],
)
def test_faults_of_a_targets_input_are_told_before_any_work(own: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        configure(tiny_values(tmp_path, transfer__input={"by_target": {"target": own}}))


def test_the_whole_picture_is_squeezed_without_a_crop(tmp_path: Path) -> None:
    """Red on the left, green on the right: the centre crop sees neither end, the whole picture both."""
    pixels = np.zeros((32, 128, 3), dtype=np.uint8)
    pixels[:, :32, 0] = pixels[:, 96:, 1] = 255
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    for look in ("extract", "score"):
        request = Request("wide", str(path), None, None, look, 0)
        whole = ImageModality(ImageInput(crop_size=16, resize=16, eval_shape="whole")).load(request, "pillow")
        crop = ImageModality(ImageInput(crop_size=16, resize=16)).load(request, "pillow")
        assert whole.shape == crop.shape == (1, 3, 16, 16)
        assert whole[0, 0, 8, 0] > 200
        assert whole[0, 1, 8, 15] > 200
        assert crop.max() == 0


def test_frames_of_a_video_can_be_looked_at_whole(tmp_path: Path) -> None:
    """As pictures: nothing of a wide frame is cut off."""
    pixels = np.zeros((32, 128, 3), dtype=np.uint8)
    pixels[:, :32, 0] = pixels[:, 96:, 1] = 255
    path = write_video(tmp_path / "wide.mp4", [pixels] * 8, size=(128, 32))
    options = FrameInput(crop_size=16, resize=16, eval_shape="whole", score_frames=2)
    views = FrameModality(options).load(Request("wide", str(path), None, None, "score", 0), "pyav")
    assert views.shape == (2, 3, 16, 16)
    assert (views[:, 0, 8, 0] > 200).all()
    assert (views[:, 1, 8, 15] > 200).all()


def test_a_card_that_forbids_mirroring_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not_mirrored(["hmdb51", "something-v1"]) == "something-v1"
    assert not_mirrored(["mine", "something_v2"]) == "something_v2"
    assert not_mirrored(["mine", "ucf101"]) is None
    data = write_pictures(tmp_path / "something-v2")
    flips: dict[str, Any] = {"input": {"by_target": {"target": {"flip": False}}}}
    for own, told in (({}, {"pretrain", "clusterfit", "target"}), (flips, {"pretrain", "clusterfit"})):
        caplog.clear()
        check(Run(tiny_config(data, **{f"transfer__{key}": value for key, value in own.items()}), tmp_path / "run"), ())
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert {text.split(":")[0] for text in warned if "are not mirrored" in text} == told


# ---------------------------------------------------------------------------------------------- the paper's size


def test_the_papers_size_follows_the_protocols_of_its_targets(tmp_path: Path) -> None:
    """Something-Something was mirrored, lr 0.16 stood beside a batch of 16; VOC07 and official splits were missing."""
    [group] = expand(read_experiment("transfer-videos"), size="paper", output=tmp_path)
    for cell in group.cells:
        config = cell.config
        assert (config.pretrain.noise, config.pretrain.label_noise) == ("uniform", 0.0)
        assert config.input.model_dump()["max_resize"] is None
        assert config.pretrain.training.lr / config.pretrain.training.batch_size == pytest.approx(0.01 / 32)
        assert config.retrain.training.lr == config.pretrain.training.lr
        assert config.input_of("something-v1").model_dump()["flip"] is False
        assert config.input_of("kinetics400").model_dump()["flip"] is True
        assert {name: len(folds) for name, folds in config.transfer.folds.items()} == {"hmdb51": 3, "ucf101": 3}
        assert "low_shot" not in config.transfer.protocols_of("sports1m")
    groups = expand(read_experiment("self-supervised"), size="paper", output=tmp_path)
    for cell in (cell for group in groups for cell in group.cells):
        assert cell.config.transfer.protocols_of("voc07") == ["svm"]
        assert cell.config.transfer.protocols_of("imagenet1k") == ["heads"]
        assert cell.config.input_of("voc07").model_dump()["eval_shape"] == "whole"
        assert cell.config.input_of("voc07").model_dump()["crop_size"] == 224


@pytest.mark.parametrize("name", ["capacity", "dcf-size", "k-sweep", "regime", "weak-images", "weak-videos"])
def test_ablations_have_several_points_at_the_papers_size(name: str, tmp_path: Path) -> None:
    groups = expand(read_experiment(name), size="paper", output=tmp_path)
    assert len({group.point for group in groups}) >= 2


def test_a_real_set_of_folds_is_a_target_of_a_shipped_experiment() -> None:
    settings = read_yaml(shipped_files("experiments/settings")["videos"]).values["paper"]
    folds = settings["transfer"]["folds"]
    assert {fold for parts in folds.values() for fold in parts} <= set(settings["data"]["targets"])
