"""A dry run: for every modality, task and protocol it gives finite figures, and leaves nothing behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.media import write_video
from support.tiny import SIDE, configure, tiny_values, write_pictures

from cfvid.config import RunConfig
from cfvid.errors import DataError
from cfvid.models.zoo import build_network
from cfvid.pipeline import TRAIN, describe_plan, run_stages
from cfvid.planning import probe
from cfvid.planning.estimate import announce, cache_room, cost_of, estimate_lines
from cfvid.planning.probe import Rates, measure
from cfvid.planning.stages import works_of
from cfvid.planning.work import Work
from cfvid.stages import Run

SHORTLY = 0.2
ALL = ["linear", "knn", "svm", "low_shot", "retrieval", "heads", "finetune"]
CLIPS = {"crop_size": SIDE, "resize": SIDE, "num_frames": 4, "frame_rate_hz": 15.0, "score_clips": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), classes=2, train=5, val=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 3), ("val", 1)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                write_video(root / split / label / f"{number}.mp4", 24)
    return root


def write_weights(path: Path) -> Path:
    trunk = build_network("resnet10_thin", num_classes=1, seed=0).trunk
    save_file({name: tensor.contiguous() for name, tensor in trunk.state_dict().items()}, path)
    return path


def config_of(data: Path, **changes: Any) -> RunConfig:
    return configure(tiny_values(data, **changes))


def estimated(config: RunConfig, folder: Path) -> tuple[list[Work], Rates, list[str]]:
    """Works and rates of a run, and the lines about it; that all figures are sound is looked at here."""
    run = Run(config, folder)
    works = works_of(run, TRAIN)
    rates = measure(run, works, measured_s=SHORTLY)
    for work in works:
        cost = cost_of(run, work, rates)
        busy = bool(work.passes or work.search)
        assert math.isfinite(cost.seconds)
        assert (cost.seconds > 0) == busy
        assert cost.host_bytes > work.memory_bytes
        assert cost.gpu_bytes == 0 or torch.cuda.is_available()
        assert bool(cost.limit) == bool(work.passes)
        assert work.kept_bytes > 0 or work.name.startswith("transfer")
    lines = estimate_lines(run, TRAIN, measured_s=SHORTLY)
    assert not folder.exists()
    return works, rates, lines


# ---------------------------------------------------------------------------------------------- what there is


@pytest.mark.parametrize("task", ["labels", "rotation", "jigsaw"])
def test_tasks_of_pictures(pictures: Path, tmp_path: Path, task: str) -> None:
    config = config_of(pictures, pretrain__task=task, pretrain__num_permutations=6)
    works, rates, lines = estimated(config, tmp_path / "run")
    assert [work.name for work in works] == ["pretrain", "extract", "cluster", "retrain", "transfer target"]
    # Held-out samples are asked as they were trained on; after jigsaw, whole pictures give their statistics.
    looks = {"labels": ["extract"], "rotation": ["train"], "jigsaw": ["train", "extract"]}[task]
    assert [one.looks.look for one in works[0].passes] == ["train", *looks]
    assert rates.num_unreadable == 0
    assert any(line.startswith("time         about") or "under a second in all" in line for line in lines)
    of_pretrain, of_retrain = (rates.footprints[works[n].passes[0].key].per_sample for n in (0, 3))
    # A picture has four turns, and nine tiles of (4 / 16)^2 of its area.
    assert of_pretrain / of_retrain == pytest.approx({"labels": 1, "rotation": 4, "jigsaw": 9 / 16}[task], rel=0.3)


@pytest.mark.parametrize("changes", [{}, {"pretrain__task": "clip_order"}], ids=["labels", "clip_order"])
def test_clips(videos: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    values = tiny_values(videos, pretrain__arch="r2plus1d_10_thin", cluster__num_clusters=2, **changes)
    values |= {"modality": "video", "input": CLIPS}
    works, _, _ = estimated(configure(values), tmp_path / "run")
    frames = works[0].passes[0].looks.modality.options.model_dump()["num_frames"]
    assert frames == (16 if changes else 4)
    assert works[-1].passes[1].looks.num_views == 2
    values = 3 * (6 + 2 * 2) * 128  # of three networks; two clips of each video of val
    assert 2 * values < works[-1].kept_bytes < 2.5 * values


def test_frames(videos: Path, tmp_path: Path) -> None:
    values = tiny_values(videos, cluster__num_clusters=2) | {"modality": "frame"}
    works, _, _ = estimated(configure(values), tmp_path / "run")
    assert works[-1].passes[1].looks.num_views == 3


def test_the_clip_cache_counts_where_it_is_used(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def run(**changes: Any) -> Run:
        own = {"runtime__clip_cache": str(tmp_path / "cache"), "runtime__clip_cache_gb": 1e9, **changes}
        values = tiny_values(videos, cluster__num_clusters=2, **own) | {"modality": "frame"}
        return Run(configure(values), tmp_path / "run")

    small = {"input__cache_short_side": 32}
    for changes, stages, room in (
        (small, ["pretrain"], 10**18),
        (small, ["cluster"], 0),
        ({}, ["pretrain"], 0),
        ({**small, "runtime__clip_cache": None}, ["pretrain"], 0),
        ({**small, "runtime__clip_cache_gb": 1e-3}, ["pretrain"], 10**6),
    ):
        caplog.clear()
        asked = run(**changes)
        assert cache_room(asked, works_of(asked, stages)) == room
        announce(asked, stages)
        assert ("too small" in caplog.text) == (room == 10**18)


def test_brought_weights(pictures: Path, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    works, _, _ = estimated(config_of(pictures, pretrain__weights=str(weights)), tmp_path / "run")
    assert not works[0].passes
    assert works[0].kept_bytes == pytest.approx(weights.stat().st_size, rel=0.02)


def test_all_protocols_on_several_targets(pictures: Path, tmp_path: Path) -> None:
    more = write_pictures(tmp_path / "more", classes=3, train=4, val=2)
    config = config_of(
        pictures, data__targets={"one": str(pictures), "two": str(more)}, transfer__protocols=ALL,
        transfer__linear__layers=["layer1"],
    )  # fmt: skip
    works, _, lines = estimated(config, tmp_path / "run")
    for work in works[-2:]:
        # Of each network the features of two splits, whatever looks at them; heads and fine-tuning train and score.
        assert len(work.passes) == 3 * (2 + 2 + 2)
        assert work.what.endswith("21 evaluations")
    assert {line.split("  ")[0] for line in lines} >= {"transfer one", "transfer two"}


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.fixture
def some_broken(tmp_path: Path) -> Path:
    data = write_pictures(tmp_path / "broken", classes=2, train=6, val=3)
    for number in range(3):
        (data / "train" / "class0" / f"{number:03d}.png").write_bytes(b"no picture")
    return data


def test_unreadable_samples_are_left_out_and_counted(some_broken: Path, tmp_path: Path) -> None:
    _, rates, lines = estimated(config_of(some_broken), tmp_path / "run")
    assert 0 < rates.num_unreadable < rates.num_decoded
    assert any("more samples were unreadable than data.skip_budget allows" in line for line in lines)


@pytest.mark.parametrize("load", [0.0, 1e4])
def test_a_busy_machine_is_told(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float) -> None:
    monkeypatch.setattr(probe.psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    lines = estimate_lines(Run(config_of(pictures), tmp_path / "run"), ["cluster"], measured_s=SHORTLY)
    assert any("busy (load 10000)" in line for line in lines) == (load > 0)


def test_when_nothing_can_be_read_that_is_told(some_broken: Path, tmp_path: Path) -> None:
    for path in some_broken.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the .* could be read") as told:
        estimate_lines(Run(config_of(some_broken), tmp_path / "run"), TRAIN, measured_s=SHORTLY)
    assert "pillow" in str(told.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- the whole command


def everything_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_with_decoding_processes_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(pictures, runtime__num_workers=1)
    before = everything_in(pictures)
    lines = describe_plan(config, Path("run"))
    assert everything_in(pictures) == before
    assert list(tmp_path.iterdir()) == []
    rates = measure(Run(config, tmp_path), works_of(Run(config, tmp_path), ["extract"]), measured_s=SHORTLY)
    assert rates.startup_s > 0
    assert rates.worker_bytes > 10**6
    assert any("decoding (1 processes)" in line for line in lines)


def test_stages_that_are_done_cost_nothing_and_are_left_as_they_are(pictures: Path, tmp_path: Path) -> None:
    config = config_of(pictures, cluster__num_clusters=2)
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract"])
    before = everything_in(tmp_path)
    run = Run(config, tmp_path / "run")
    lines = estimate_lines(run, TRAIN, measured_s=SHORTLY)
    assert everything_in(tmp_path) == before
    assert [line.split()[0] for line in lines if line.endswith("done before")] == ["pretrain", "extract"]
    done, *_ = works_of(run, TRAIN)
    assert cost_of(run, done, Rates()).seconds == 0


def test_a_step_that_takes_long_is_measured_in_small(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is turned: a sample takes a second, whatever the batch."""
    sizes: list[int] = []
    now = 0.0

    def slow(run: Run, one: Any) -> Any:
        def step(size: int) -> None:
            nonlocal now
            sizes.append(size)
            now += size

        return step

    run = Run(config_of(pictures), tmp_path / "run")
    [work] = works_of(run, ["retrain"])
    monkeypatch.setattr(probe, "_training_step", slow)
    monkeypatch.setattr(probe.time, "monotonic", lambda: now)
    for share_s, largest in ((1.0, 2), (20.0, 4), (1000.0, 8)):
        sizes.clear()
        seconds = probe._view_seconds(run, work.passes[0], probe.footprint_of(work.passes[0]), share_s=share_s)
        assert seconds == 1.0
        assert max(sizes) == largest


def test_no_more_is_held_than_there_is_memory_for(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config_of(pictures), tmp_path / "run")
    [work] = works_of(run, ["retrain"])
    sizes: list[int] = []
    monkeypatch.setattr(probe, "_training_step", lambda *_: sizes.append)
    [one] = work.passes
    footprint = probe.footprint_of(one)
    room = 2 * (footprint.fixed + 4 * footprint.per_sample)
    memory = type("Memory", (), {"available": room + 1, "total": room})
    monkeypatch.setattr(probe.psutil, "virtual_memory", lambda: memory)
    probe._view_seconds(run, one, footprint, share_s=1000.0)
    assert max(sizes) == 4
