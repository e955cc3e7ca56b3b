"""Tasks as stages of a run: what they write, refuse, resume, and learn."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.media import write_video
from support.tiny import SIDE, configure, tiny_config, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.errors import ConfigError, DataError, Interrupted, SkipBudgetExceeded
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.training import interrupts

ONE_EPOCH = {"pretrain__training__epochs": 1}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def unlabelled(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    rows = ["sample_id,path,label,split"]
    for path in sorted(pictures.rglob("*.png")):
        name = path.relative_to(pictures).as_posix()
        rows.append(f"{name},{name},,{name.split('/')[0]}")
    manifest = tmp_path_factory.mktemp("manifest") / "unlabelled.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return {"path": str(manifest), "media_root": str(pictures)}


def facts_of(run: Path) -> dict[str, object]:
    return dict(Record.read(run / "pretrain", kind="pretrain").facts)


# ---------------------------------------------------------------------------------------------- labels


def test_labels_that_are_left_out_are_counted_and_held_out_samples_keep_clean_labels(
    pictures: Path, tmp_path: Path
) -> None:
    config = tiny_config(pictures, pretrain__num_labels=2, pretrain__label_noise=1.0, pretrain__training__epochs=6)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    facts = facts_of(tmp_path / "run")
    assert (facts["num_samples"], facts["num_left_out"], facts["num_held_out"]) == (16, 8, 8)
    assert (facts["task"], facts["chance"]) == ("labels", 0.5)
    # Every training label is wrong, so that what was learnt is wrong by the clean ones.
    assert facts["held_out_accuracy"] < 0.3  # type: ignore[operator]
    _, saved = load_network(tmp_path / "run" / "pretrain" / "network")
    table = pq.read_table(tmp_path / "run" / "pretrain" / "labels.parquet").to_pylist()
    assert {row["labels"][0] for row in table} == set(saved.classes)
    assert len(saved.classes) == 2
    assert all(row["flipped"] for row in table)


def test_weak_tags_are_recorded(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, pretrain__noise="tags", pretrain__label_noise=0.5, **ONE_EPOCH)
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])
    table = pq.read_table(tmp_path / "run" / "pretrain" / "labels.parquet").to_pylist()
    assert any(len(row["noisy_labels"]) > 1 for row in table)
    assert 0 < sum(row["flipped"] for row in table) < 24
    assert all(row["flipped"] == (row["labels"][0] not in row["noisy_labels"]) for row in table)


def test_noise_does_not_reach_the_targets(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(
        pictures,
        pretrain__label_noise=1.0,
        transfer__networks=["n_pre"],
        transfer__protocols=["linear"],
        **ONE_EPOCH,
    )
    run_stages(config, tmp_path / "run", stages=["pretrain", "transfer"])
    [path] = (tmp_path / "run" / "transfer").rglob("predictions.parquet")
    for row in pq.read_table(path).to_pylist():
        assert row["label"] == row["sample_id"].split("/")[1]


# ---------------------------------------------------------------------------------------------- without labels


@pytest.mark.parametrize(("task", "chance", "classes"), [("rotation", 1 / 4, 4), ("jigsaw", 1 / 6, 0)])
def test_tasks_without_labels_train_on_unlabelled_samples(
    unlabelled: dict[str, str], tmp_path: Path, task: str, chance: float, classes: int
) -> None:
    config = tiny_config(
        Path(unlabelled["media_root"]),
        data__pretrain=[unlabelled],
        pretrain__task=task,
        pretrain__num_permutations=6,
        **ONE_EPOCH,
    )
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster", "report"])
    facts = facts_of(tmp_path / "run")
    assert facts["chance"] == pytest.approx(chance)
    assert (facts["task"], facts["num_held_out"], facts["num_left_out"]) == (task, 12, 0)
    assert 0 <= facts["held_out_accuracy"] <= 1  # type: ignore[operator]
    network, saved = load_network(tmp_path / "run" / "pretrain" / "network")
    assert len(saved.classes) == classes
    assert network.num_classes == max(1, classes)
    assert not (tmp_path / "run" / "pretrain" / "labels.parquet").exists()
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert f"the task {task}, without labels" in page


def test_without_held_out_samples_there_is_no_accuracy(pictures: Path, tmp_path: Path) -> None:
    train = shutil.copytree(pictures / "train", tmp_path / "data" / "train")
    config = tiny_config(pictures, data__pretrain=str(Path(train).parent), pretrain__task="rotation", **ONE_EPOCH)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert facts_of(tmp_path / "run")["held_out_accuracy"] is None


def test_a_task_for_other_networks_is_refused_before_any_work(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, pretrain__task="clip_order")
    with pytest.raises(ConfigError, match="labels, rotation, jigsaw"):
        run_stages(config, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("pretrain"))


def test_labels_are_needed_only_by_the_task_of_that_name(unlabelled: dict[str, str], tmp_path: Path) -> None:
    config = tiny_config(Path(unlabelled["media_root"]), data__pretrain=[unlabelled])
    with pytest.raises(DataError, match="no labelled samples"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])


@pytest.mark.parametrize("task", ["rotation", "jigsaw"])
def test_a_stopped_pretraining_resumes_to_the_same_bytes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    config = tiny_config(pictures, pretrain__task=task, pretrain__num_permutations=6)
    run_stages(config, tmp_path / "whole", stages=["pretrain"])
    calls = 0

    def stop_at_second_step() -> bool:
        nonlocal calls
        calls += 1
        if calls == 2:
            interrupts._received.append(signal.SIGTERM)
        return bool(interrupts._received)

    monkeypatch.setattr(interrupts, "requested", stop_at_second_step)
    with pytest.raises(Interrupted):
        run_stages(config, tmp_path / "stopped", stages=["pretrain"])
    monkeypatch.undo()
    run_stages(config, tmp_path / "stopped", stages=["pretrain"])
    for name in ("network/model.safetensors", "metrics.jsonl", "record.json"):
        whole, stopped = (tmp_path / run / "pretrain" / name for run in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes(), name


# ---------------------------------------------------------------------------------------------- learning


def write_landscapes(root: Path) -> Path:
    """Pictures that have an upside: a sky that is brighter than the ground, of random colours and height."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 32)):
        folder = root / split / "landscape"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (SIDE, SIDE, 3)) + rng.integers(0, 90, 3)
            pixels[: rng.integers(SIDE // 4, 3 * SIDE // 4)] += rng.integers(40, 100)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def write_falls(root: Path, *, classes: tuple[str, ...] = ("fall",)) -> Path:
    """Videos that have an order: something falls through the picture (or rises), here and there, faster and slower."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 32)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
        for number in range(count):
            name = classes[number % len(classes)]
            frames = rng.integers(0, 60, (18, 32, 32, 3)).astype(np.uint8)
            left, heights = rng.integers(26), np.linspace(rng.uniform(0, 5), rng.uniform(20, 26), 18).astype(int)
            for frame, top in zip(frames, heights if name == "fall" else heights[::-1], strict=True):
                frame[top : top + 6, left : left + 6] = rng.integers(170, 255)
            write_video(root / split / name / f"{number:03d}.mp4", list(frames))
    return root


def task_values(modality: str, data: str, *, options: dict[str, object], pretrain: dict[str, object], epochs: int):  # type: ignore[no-untyped-def]
    values = tiny_values(Path(data), modality=modality, input=options, data__pretrain=data)
    training = {"epochs": epochs, "batch_size": 16, "lr": 0.05, "warmup_epochs": 1}
    return {**values, "pretrain": {**pretrain, "training": training}, "extract": {"batch_size": 32}}


def learnt(values: dict[str, object], run: Path) -> float:
    run_stages(configure(values), run, stages=["pretrain"])
    return float(facts_of(run)["held_out_accuracy"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "noise",
    [
        {"noise": "uniform", "label_noise": 0.4},
        {"noise": "pair_flip", "label_noise": 0.3},
        {"noise": "tags", "label_noise": 0.2, "extra_tags": 1},
    ],
    ids=lambda noise: noise["noise"],
)
def test_true_labels_are_learnt_from_noisy_ones(tmp_path: Path, noise: dict[str, object]) -> None:
    data = write_pictures(tmp_path / "data", classes=6, train=60, val=10)
    values = task_values(
        "image",
        str(data),
        options={"crop_size": SIDE, "resize": SIDE},
        pretrain={"arch": "resnet10_thin", **noise},
        epochs=6,
    )
    assert learnt(values, tmp_path / "run") > 0.7  # chance is 0.17


def test_labels_of_motions_are_learnt(tmp_path: Path) -> None:
    """A single frame does not tell whether something falls or rises."""
    values = task_values(
        "video",
        str(write_falls(tmp_path / "data", classes=("fall", "rise"))),
        options={"num_frames": 4, "frame_rate_hz": 5.0, "crop_size": 16, "resize": 16, "flip": False},
        pretrain={"arch": "r2plus1d_10_thin"},
        epochs=10,
    )
    assert learnt(values, tmp_path / "run") > 0.8  # chance is 0.5


def test_rotation_is_learnt_where_pictures_have_an_upside(tmp_path: Path) -> None:
    values = task_values(
        "image",
        str(write_landscapes(tmp_path / "data")),
        options={"crop_size": SIDE, "resize": SIDE},
        pretrain={"arch": "resnet10_thin", "task": "rotation"},
        epochs=6,
    )
    assert learnt(values, tmp_path / "run") > 0.8  # chance is 0.25


def test_jigsaw_is_learnt_on_the_embedded_shapes(tmp_path: Path) -> None:
    values = task_values(
        "image",
        "embedded:shapes",
        options={"crop_size": 36, "resize": 36, "min_scale": 1.0, "max_aspect": 1.0, "flip": False},
        pretrain={"arch": "resnet10_thin", "task": "jigsaw", "num_permutations": 24},
        epochs=3,
    )
    assert learnt(values, tmp_path / "run") > 0.25  # chance is 0.042


def test_clip_order_is_learnt_where_videos_have_an_order(tmp_path: Path) -> None:
    values = task_values(
        "video",
        str(write_falls(tmp_path / "data")),
        options={"num_frames": 4, "frame_rate_hz": 15.0, "crop_size": 16, "resize": 16},
        pretrain={"arch": "r2plus1d_10_thin", "task": "clip_order"},
        epochs=9,
    )
    assert learnt(values, tmp_path / "run") > 0.5  # chance is 0.17
    # N_pre itself sees clips of the usual length.
    _, saved = load_network(tmp_path / "run" / "pretrain" / "network")
    assert saved.input["num_frames"] == 4


def test_clip_order_leaves_out_videos_that_are_too_short_for_it(tmp_path: Path) -> None:
    values = task_values(
        "video",
        str(write_falls(tmp_path / "data")),
        options={"num_frames": 8, "frame_rate_hz": 15.0, "crop_size": 16, "resize": 16, "short_clip": "repeat"},
        pretrain={"arch": "r2plus1d_10_thin", "task": "clip_order"},
        epochs=2,
    )
    with pytest.raises(SkipBudgetExceeded, match=r"the video has 1\.20 s, a clip needs 2\.\d+ s"):
        run_stages(configure(values), tmp_path / "run", stages=["pretrain"])
