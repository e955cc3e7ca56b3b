"""What is said to be written is what a real run writes, and what is said to be done is what a real run does."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.tiny import tiny_config, write_pictures

import cfvid.planning.estimate
from cfvid.config import RunConfig
from cfvid.data.loader import SampleLoader
from cfvid.pipeline import TRAIN, run_stages
from cfvid.planning.stages import works_of
from cfvid.planning.work import Work, disk_bytes
from cfvid.stages import Run
from cfvid.stages.soft_labels import forget_soft_labels
from cfvid.training import loop

LAYERS = ["layer2"]
PROTOCOLS = ["linear", "knn", "retrieval", "low_shot", "heads", "finetune"]
SHORT = {"epochs": 2, "batch_size": 8}


class Ran(NamedTuple):
    config: RunConfig
    folder: Path
    works: dict[str, Work]
    """What was expected before."""
    states: dict[str, int]
    """Bytes of the largest training state of each stage."""
    looked: Counter[tuple[str, int]]
    """How many samples each look was asked for, by look and number of samples."""


def size_of(*paths: Path) -> int:
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    home = tmp_path_factory.mktemp("run")
    folder = home / "run"
    config = tiny_config(
        write_pictures(home / "pictures", train=9),
        input__score_crops=3,
        extract__shard_size=4096,
        retrain__arch="resnet10_tiny",
        retrain__training__optimizer="adamw",
        transfer__seeds=[0, 1],
        transfer__protocols=PROTOCOLS,
        transfer__linear__layers=LAYERS,
        transfer__low_shot={"per_class": [2], "num_draws": 2},
        transfer__heads=SHORT,
        transfer__finetune=SHORT | {"lr": 0.01, "part_lrs": {"layer4": 0.0}},
    )
    works = {work.name: work for work in works_of(Run(config, folder), TRAIN)}
    states: dict[str, int] = {}
    looked: Counter[tuple[str, int]] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        saved, batches = loop.save_state, SampleLoader.batches

        def watched(accelerator: Any, folder: Path, progress: Any) -> None:
            saved(accelerator, folder, progress)
            name = folder.name if folder.parent == ran_folder else folder.name.split("-")[0]
            states[name] = max(states.get(name, 0), size_of(*(folder / "states").iterdir()))

        def counted(self: SampleLoader, sample_ids: list[str], **how: Any) -> Any:
            looked[how["look"], len(sample_ids)] += 1
            return batches(self, sample_ids, **how)

        ran_folder = folder
        patch.setattr(loop, "save_state", watched)
        patch.setattr(SampleLoader, "batches", counted)
        run_stages(config, folder, stages=[stage for stage in TRAIN if stage != "report"])
    return Ran(config, folder, works, states, looked)


def test_networks(ran: Ran) -> None:
    for stage in ("pretrain", "retrain"):
        written = size_of(ran.folder / stage / "network" / "model.safetensors")
        assert ran.works[stage].kept_bytes == pytest.approx(written, rel=0.02)


def test_feature_stores(ran: Ran) -> None:
    assert ran.works["extract"].kept_bytes == pytest.approx(size_of(ran.folder / "extract" / "shards"), rel=0.05)
    stores = list((ran.folder / "transfer" / "target").glob("*/features/*/shards"))
    assert len(stores) == 2 * 4  # n_pre, n_cf and a random network for each seed
    assert ran.works["transfer target"].kept_bytes == pytest.approx(size_of(*stores), rel=0.05)
    arrays = size_of(*ran.folder.glob("extract/shards/*.npy"))
    assert arrays == 27 * 256 * 2 + 128


def test_centroids(ran: Ran) -> None:
    labels = sum(map(len, ran.works["extract"].passes[0].looks.samples.ids)) + 27 * 12
    assert ran.works["cluster"].kept_bytes - labels == size_of(ran.folder / "cluster" / "centroids.npy")


def test_states_of_trainings(ran: Ran) -> None:
    for name, stage in (("pretrain", "pretrain"), ("retrain", "retrain"), ("finetune", "transfer target")):
        assert ran.works[stage].scratch_bytes == pytest.approx(2 * ran.states[name], rel=0.05)
    assert set(ran.states) == {"pretrain", "retrain", "finetune", "heads"}


def test_every_look_of_the_run_was_expected(ran: Ran) -> None:
    expected: Counter[tuple[str, int]] = Counter()
    for work in ran.works.values():
        for one in work.passes:
            # A training asks anew for every epoch; what is only looked at, once for each shard.
            expected[one.looks.look, len(one.looks.samples)] += one.times
    assert ran.looked == expected


def test_what_was_done_costs_nothing(ran: Ran) -> None:
    works = works_of(Run(ran.config, ran.folder), TRAIN)
    assert all(work.is_done for work in works)
    assert disk_bytes(works) == (0, 0)


def test_what_is_left_is_what_is_missing(ran: Ran, tmp_path: Path) -> None:
    copy = shutil.copytree(ran.folder, tmp_path / "run")
    transfer = copy / "transfer" / "target"
    (transfer / "n_pre" / "knn-seed1" / "record.json").unlink()
    (transfer / "n_cf" / "linear-seed0" / "record.json").unlink()
    (transfer / "n_cf" / "features" / "val" / "record.json").unlink()
    (transfer / "random-seed1" / "finetune-seed1" / "record.json").unlink()
    *before, work = works_of(Run(ran.config, copy), TRAIN)
    assert all(one.is_done for one in before)
    assert work.what.endswith("3 evaluations")
    assert [(one.looks.look, one.times) for one in work.passes] == [("score", 1), ("train", 2), ("score", 1)]


def test_a_retraining_on_fewer_samples_and_other_clusters(ran: Ran, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"retrain__keep_nearest": 0.5, "cluster__method": "prototypes"}
    config = tiny_config(Path(ran.config.data.pretrain[0].path), **changes)
    *_, cluster, retrain = works_of(Run(config, tmp_path), ["cluster", "retrain"])
    assert len(retrain.passes[0].looks.samples) == 14
    assert cluster.search is not None
    assert cluster.search.num_comparisons == 27 * 3 * 2  # labels instead of clusters, and no iterations


def test_streamed_points_lie_on_the_disk_for_a_while(ran: Ran, tmp_path: Path) -> None:
    sizes: list[int] = []
    config = tiny_config(Path(ran.config.data.pretrain[0].path), cluster__engine="streaming", cluster__pca_dim=7)
    [expected] = works_of(Run(config, tmp_path / "run"), ["cluster"])
    with pytest.MonkeyPatch.context() as patch:
        from cfvid.stages import cluster as stage  # the function
        from cfvid.stages.cluster import forget

        def watched(folder: Path) -> None:
            sizes.append(size_of(*folder.glob("k-means-*"), folder / "points.npy"))
            forget(folder)

        patch.setitem(stage.__globals__, "forget", watched)
        run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])
    [size] = sizes
    assert size - 1024 < expected.scratch_bytes < size  # but for headers


@pytest.mark.parametrize(
    ("changes", "hard_ones"),
    # Of as many classes.
    [({"cluster__method": "distillation"}, {"cluster__method": "prototypes"}), ({"cluster__soft_top": 2}, {})],
)
def test_soft_labels_are_trained_on_from_the_disk(
    ran: Ran, tmp_path: Path, changes: dict[str, Any], hard_ones: dict[str, Any]
) -> None:
    sizes: list[int] = []
    config = tiny_config(Path(ran.config.data.pretrain[0].path), **changes)
    hard = tiny_config(Path(ran.config.data.pretrain[0].path), **hard_ones)
    [expected], [without] = (works_of(Run(one, tmp_path / "run"), ["retrain"]) for one in (config, hard))
    with pytest.MonkeyPatch.context() as patch:
        from cfvid.stages import retrain as stage  # the function

        def watched(folder: Path) -> None:
            sizes.append(size_of(*folder.glob("soft_*.npy")))
            forget_soft_labels(folder)

        patch.setitem(stage.__globals__, "forget_soft_labels", watched)
        run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster", "retrain"])
    assert sizes == [expected.scratch_bytes - without.scratch_bytes]
    assert not [*(tmp_path / "run" / "retrain").glob("soft_*")]


# ---------------------------------------------------------------------------------------------- told before a run


def test_a_run_tells_what_it_will_write_before_it_does(
    ran: Ran, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cfvid"):
        run_stages(ran.config, tmp_path / "run", stages=["pretrain", "cluster", "extract"])
    told = [record.getMessage() for record in caplog.records]
    plan = [line for line in told if line.startswith("plan: ")]
    assert plan[0].startswith("plan: pretrain: 27 samples x 2 epochs, 4.9 MB to write")
    assert "of memory for its arrays" in plan[2]
    assert plan[3].endswith("at most while it works")
    assert told.index(plan[-1]) < next(n for n, line in enumerate(told) if line.startswith("pretrain"))
    assert "too small" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="cfvid"):
        run_stages(ran.config, tmp_path / "run", stages=["pretrain", "cluster", "extract"])
    assert "plan: " not in caplog.text


def test_a_disk_that_is_too_small_is_told_once_and_stops_nothing(
    ran: Ran, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cfvid.planning.estimate, "free_bytes", lambda _: 20_000_000)
    run_stages(ran.config, tmp_path / "run", stages=["pretrain"])
    [warned] = [record.getMessage() for record in caplog.records if "too small" in record.getMessage()]
    assert "about 25 MB will be written, 20 MB are free" in warned
    assert (tmp_path / "run" / "pretrain" / "network" / "model.safetensors").is_file()
