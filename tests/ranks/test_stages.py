"""Every stage with several processes; and rows 15, 16, 20, 21, 29 and 30 of the fault matrix there."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from support.team import Team
from support.tiny import configure, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.data.skips import read_skips
from cfvid.errors import ArtifactError, RankLost, SkipBudgetExceeded, TrainingError
from cfvid.features import FeatureStore
from cfvid.folder_lock import own_folder
from cfvid.pipeline import run_stages
from cfvid.training.metrics import read_metrics

ALL = ["pretrain", "extract", "cluster", "estimate", "retrain", "transfer", "report"]
BEFORE_RETRAIN = ALL[:3]
BOUND_S = 15
"""In which all others have ended after one has: with 2 cores for all of them."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    data = write_pictures(folder / "pictures", train=9, val=5)
    (data / "train" / "class1" / "003.png").write_bytes(b"not a picture")
    values = tiny_values(data, data__skip_budget=0.1, retrain__training__epochs=4, cluster__engine="streaming")
    values["transfer"] = {
        "networks": ["n_cf"],
        "protocols": ["linear", "knn", "heads", "finetune"],
        "finetune": values["pretrain"]["training"],
        "heads": {"epochs": 2, "batch_size": 8},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one process, up to the clusters."""
    output = tmp_path_factory.mktemp("alone") / "run"
    run_stages(configure(json.loads(config.read_text())), output, stages=[*BEFORE_RETRAIN, "retrain"])
    return output


def begun(alone: Path, output: Path, stages: list[str]) -> Path:
    for stage in stages:
        shutil.copytree(alone / stage, output / stage)
    return output


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if line["event"] == "step"]


@pytest.mark.parametrize("size", [2, 3])
def test_every_stage(team: Team, config: Path, alone: Path, tmp_path: Path, size: int) -> None:
    assert team.run("stages", config, tmp_path / "run", ALL, size=size) == [0] * size
    store, expected = FeatureStore(tmp_path / "run" / "extract"), FeatureStore(alone / "extract")
    assert store.ids == expected.ids
    for folder in ("pretrain", "extract"):
        skips = [skip.sample_id for skip in read_skips(tmp_path / "run" / folder / "skips.jsonl")]
        assert len(skips) == 1
    labels = pyarrow.parquet.read_table(tmp_path / "run" / "cluster" / "pseudo_labels.parquet")
    assert labels["sample_id"].to_pylist() == expected.ids
    home = tmp_path / "run" / "transfer" / "target" / "n_cf"
    for protocol in ("linear", "knn", "heads", "finetune"):
        predictions = pyarrow.parquet.read_table(home / f"{protocol}-seed0" / "predictions.parquet")
        assert len(predictions) == 15
        assert Record.read(home / f"{protocol}-seed0", kind="transfer-scores").facts["num_absent"] == 0
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert not list((tmp_path / "run").rglob(".tmp-*"))


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_features_and_clusters_by_one_and_by_several(
    team: Team, config: Path, alone: Path, tmp_path: Path, size: int
) -> None:
    output = begun(alone, tmp_path / "run", ["pretrain"])
    assert team.run("stages", config, output, ["extract", "cluster"], size=size) == [0] * size
    ours, theirs = FeatureStore(output / "extract"), FeatureStore(alone / "extract")
    assert ours.record.digest == theirs.record.digest
    ours_quality, quality = (json.loads((run / "cluster" / "quality.json").read_text()) for run in (output, alone))
    np.testing.assert_allclose(ours_quality["objective"], quality["objective"], rtol=1e-5)


@pytest.mark.parametrize("name", ["rotation", "jigsaw"])
def test_tasks_without_labels(team: Team, config: Path, tmp_path: Path, name: str) -> None:
    values = json.loads(config.read_text())
    values["pretrain"] |= {"task": name}
    values["input"] = {"crop_size": 32, "resize": 32}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert team.run("stages", tmp_path / "config.json", tmp_path / "run", ["pretrain"], size=2) == [0, 0]
    facts = Record.read(tmp_path / "run" / "pretrain", kind="pretrain").facts
    assert facts["num_held_out"] == 15
    assert facts.get("num_statistics") == {"rotation": None, "jigsaw": 26}[name]


# ---------------------------------------------------------------------------------------------- faults


def test_a_killed_rank_ends_all_and_any_number_goes_on(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    output = begun(alone, tmp_path / "run", BEFORE_RETRAIN)
    team.start("stages_until", config, output, ["retrain"], 7, 1, "SIGKILL", size=2)
    codes, seconds = team.wait()
    assert codes == [RankLost.exit_code, -signal.SIGKILL]
    assert seconds < BOUND_S
    assert list((output / "retrain" / "states").glob("epoch-0001-*")), "the end of an epoch was saved"
    assert team.run("stages", config, output, ["retrain"], size=3) == [0] * 3
    assert len(losses(output / "retrain")) == len(losses(alone / "retrain"))


def test_a_signal_to_one_rank_saves_and_ends_all(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    output = begun(alone, tmp_path / "run", BEFORE_RETRAIN)
    assert team.run("stages_until", config, output, ["retrain"], 6, 1, "SIGTERM", size=2) == [143, 143]
    assert list((output / "retrain" / "states").glob("epoch-0001-batch-000002")), "in the middle of an epoch"
    assert team.run("stages", config, output, ["retrain"], size=2) == [0, 0]
    undisturbed = begun(alone, tmp_path / "undisturbed", BEFORE_RETRAIN)
    assert team.run("stages", config, undisturbed, ["retrain"], size=2) == [0, 0]
    assert losses(output / "retrain") == losses(undisturbed / "retrain")


def test_a_loss_that_is_not_finite_at_one_rank_ends_all(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    output = begun(alone, tmp_path / "run", BEFORE_RETRAIN)
    codes = team.run("stages_until", config, output, ["retrain"], 5, 1, "nan", size=2)
    assert codes == [TrainingError.exit_code] * 2
    assert list((output / "retrain" / "states").glob("epoch-0001-*"))


def test_a_full_disk_at_one_rank(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    output = begun(alone, tmp_path / "run", ["pretrain"])
    codes = team.run("stages_with_little_disk", config, output, ["extract"], 1, 300, size=2)
    assert codes == [RankLost.exit_code, ArtifactError.exit_code]
    assert not list((output / "extract").rglob(".tmp-*"))
    assert team.run("stages", config, output, ["extract"], size=2) == [0, 0]
    assert FeatureStore(output / "extract").record.digest == FeatureStore(alone / "extract").record.digest


def test_the_main_rank_killed_at_its_writes(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    output = begun(alone, tmp_path / "run", BEFORE_RETRAIN)
    kills = 0
    for call in (9, 17, 26):
        codes = team.run("stages_dying_at_write", config, output, ["retrain"], call, size=2)
        assert codes in ([-signal.SIGKILL, RankLost.exit_code], [0, 0])
        kills += codes[0] != 0
    assert kills >= 2
    assert team.run("stages", config, output, ["retrain"], size=2) == [0, 0]
    assert not list((output / "retrain").rglob(".tmp-*"))
    Record.read(output / "retrain", kind="retrain").verify(output / "retrain")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The configuration of a run of which 4 samples of 27 are unreadable, where 3 are accepted."""
    data = write_pictures(tmp_path / "pictures", train=9, val=5)
    for name in ("class0/001", "class1/003", "class1/004", "class2/000"):
        (data / "train" / f"{name}.png").write_bytes(b"not a picture")
    values = tiny_values(data, data__skip_budget=0.12, pretrain__training__epochs=3, extract__shard_size=3)
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path / "config.json"


def with_budget(config: Path, budget: float) -> Path:
    values = json.loads(config.read_text())
    values["data"]["skip_budget"] = budget
    (config.parent / "larger.json").write_text(json.dumps(values))
    return config.parent / "larger.json"


@pytest.mark.parametrize("size", [2, 3])
def test_skips_of_all_ranks_together_end_them_all(team: Team, broken: Path, tmp_path: Path, size: int) -> None:
    """Each rank compared its own skips with the budget of all; after the training they were too many, and the same
    command passed."""
    output, too_many = tmp_path / "run", [SkipBudgetExceeded.exit_code] * size
    assert team.run("stages", broken, output, ["pretrain"], size=size) == too_many
    assert [line for line in read_metrics(output / "pretrain") if line["event"] == "epoch"] == []
    assert len(read_skips(output / "pretrain" / "skips.jsonl")) == 4
    steps = len(losses(output / "pretrain"))
    assert team.run("stages", broken, output, ["pretrain"], size=size) == too_many
    assert len(losses(output / "pretrain")) == steps, "it is refused before any step"
    larger = with_budget(broken, 0.2)
    assert team.run("stages", larger, output, ["pretrain"], size=size) == [0] * size
    for _ in range(2):
        assert team.run("stages", broken, output, ["extract"], size=size) == too_many
    assert len(list((output / "extract" / "shards").glob("*.json"))) < 9, "it ends before the last shard"
    assert team.run("stages", larger, output, ["extract"], size=size) == [0] * size
    assert len(read_skips(output / "extract" / "skips.jsonl")) == 4
    assert FeatureStore(output / "extract").record.facts["num_skipped"] == 4


def test_what_one_rank_has_met_no_rank_tries_again(team: Team, broken: Path, tmp_path: Path) -> None:
    larger = with_budget(broken, 0.2)
    tried = tmp_path / "tried"
    assert team.run("stages_counting_looks", larger, tmp_path / "run", ["pretrain"], tried, size=2) == [0, 0]
    looks = [name for rank in range(2) for name in json.loads(Path(f"{tried}{rank}").read_text())]
    assert looks.count("train/class1/003.png") == 1
    assert looks.count("train/class1/005.png") == 3


def test_a_run_folder_in_use_is_refused(team: Team, config: Path, tmp_path: Path) -> None:
    with own_folder(tmp_path / "run"):
        codes = team.run("stages", config, tmp_path / "run", ["pretrain"], size=2)
    assert codes == [ArtifactError.exit_code, RankLost.exit_code]


def test_sources_are_read_by_the_main_process_alone(team: Team, config: Path, alone: Path, tmp_path: Path) -> None:
    assert team.run("stages_of_one_reading", config, tmp_path / "run", ["pretrain", "extract"], size=2) == [0, 0]
    own, theirs = FeatureStore(alone / "extract"), FeatureStore(tmp_path / "run" / "extract")
    assert sorted(theirs.ids) == sorted(own.ids)
    assert not (tmp_path / "run" / ".manifests").exists()


def test_embedded_sets_are_drawn_on_each_machine(team: Team, config: Path, tmp_path: Path) -> None:
    arguments = (config, tmp_path / "run", ["pretrain", "extract"], tmp_path / "cache")
    assert team.run("stages_on_two_machines", *arguments, size=2) == [0, 0]
    assert len(FeatureStore(tmp_path / "run" / "extract")) == 2 * 8
    for rank in range(2):
        assert len([*(tmp_path / f"cache{rank}").rglob("*.jpg")]) == 3 * 8
