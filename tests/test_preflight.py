"""What is wrong is told before any work, all at once, and a refused command changes nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_config, write_pictures
from torchvision.models import resnet34

from cfvid import launch
from cfvid.errors import ArtifactError, CfvidError, ConfigError, DataError, InputsChanged, WeightsError
from cfvid.pipeline import TRAIN, describe_plan, run_stages
from cfvid.preflight import Faults, check
from cfvid.stages import Run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_faults_of_several_stages_are_told_together_before_any_work(pictures: Path, tmp_path: Path) -> None:
    one_class = write_pictures(tmp_path / "one_class", classes=1)
    unseen = write_pictures(tmp_path / "unseen")
    shutil.rmtree(unseen / "train" / "class2")
    config = tiny_config(
        pictures,
        data__targets={"one": str(one_class), "unseen": str(unseen), "gone": str(tmp_path / "gone")},
        extract__layer="layer9",
        cluster__num_clusters=1000,
    )
    with pytest.raises(ConfigError) as refused:
        run_stages(config, tmp_path / "run")
    text = str(refused.value)
    assert "5 things stand in the way" in text
    for said in ("at least two classes", "classes that train lacks", "gone does not exist", "layer9", "is 1000"):
        assert said in text
    assert not (tmp_path / "run" / "pretrain").exists()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_features_that_are_no_feature_store_are_told(pictures: Path, tmp_path: Path) -> None:
    """`cluster.more_features` that named a file was a raw traceback."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "record.json").write_text("[1]")
    (tmp_path / "folder" / "record.json").mkdir(parents=True)
    for name in ("file", "file/inside", "empty", "missing", "foreign", "folder", "~nobody/at/all", "x" * 300):
        config = tiny_config(pictures, cluster__more_features=[str(tmp_path / name)])
        told = rf"cluster.more_features: \S*{name} is no complete feature store"
        with pytest.raises(ConfigError, match=told) as refused:
            run_stages(config, tmp_path / "run")
        assert "RUN/extract" in str(refused.value)
    assert not (tmp_path / "run" / "pretrain").exists()


NO_SUCH_PLACE = ("file", "file/inside", "missing/file", "empty", "loop", "x" * 300)


@pytest.mark.parametrize(
    "key",
    [
        "pretrain__weights",
        "runtime__cache",
        "runtime__clip_cache",
        "data__root",
        "data__pretrain",
        "data__clusterfit",
        "data__targets__target",
        "data__trusted_roots",
        "report__leaks__target",
    ],
)
def test_no_path_of_a_configuration_ends_in_a_traceback(pictures: Path, tmp_path: Path, key: str) -> None:
    """A file where a folder is meant, a folder where a file is, a link to itself, what is not there or cannot be."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in (*NO_SUCH_PLACE, "~nobody/at/all"):
        place = str(tmp_path / name) if name[0] != "~" else name
        others = {
            "data__root": {"data__pretrain": "pictures"},
            "runtime__cache": {"data__clusterfit": {"path": "embedded:textures", "per_class": [4, 1]}},
        }
        value = [place] if key.endswith("roots") else place
        config = tiny_config(pictures, **{key: value}, **others.get(key, {}))
        with contextlib.suppress(CfvidError):
            check(Run(config, tmp_path / "run"), TRAIN)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["file", "file/inside", "loop", "x" * 300])
def test_an_output_that_can_be_no_folder_is_told(pictures: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError, match="cannot be the folder of a run"):
        run_stages(tiny_config(pictures), tmp_path / name)


def test_a_clip_cache_that_cannot_be_written_is_told(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = tiny_config(pictures, runtime__clip_cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=r"runtime.clip_cache: \S+/file/cache cannot be written") as refused:
        run_stages(config, tmp_path / "run")
    assert "is no folder" in str(refused.value)
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"cluster__pca_dim": 25}, ConfigError, "24 samples"),
        ({"cluster__pca_dim": 20, "extract__layer": "layer1"}, None, ""),
        ({"cluster__pca_dim": 33, "extract__layer": "layer1"}, ConfigError, "32 dimensions"),
        ({"pretrain__weights": "/nowhere/weights.pth"}, WeightsError, "do not exist"),
    ],
)
def test_dimensions_and_weights(
    pictures: Path, tmp_path: Path, changes: dict[str, object], kind: type[Exception] | None, said: str
) -> None:
    config = tiny_config(pictures, pretrain__training__epochs=1, **changes)
    if kind is None:
        run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])
        return
    with pytest.raises(kind, match=said):
        run_stages(config, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.parametrize("kind", ["other architecture", "no weights", "network of another architecture"])
def test_weights_are_compared_with_the_architecture_before_any_work_and_by_the_dry_run(
    pictures: Path, tmp_path: Path, kind: str
) -> None:
    """Point 16 of the faults of everybody's files: `train --dry-run` said that all was well."""
    path = tmp_path / "weights.pth"
    if kind == "other architecture":
        torch.save(resnet34().state_dict(), path)
    elif kind == "no weights":
        path.write_text("<html>")
    else:
        config = tiny_config(pictures, pretrain__training__epochs=1, pretrain__arch="resnet10_tiny")
        path = run_stages(config, tmp_path / "other", stages=["pretrain"])["pretrain"]
    config = tiny_config(pictures, pretrain__weights=str(path), pretrain__arch="resnet18", cluster__num_clusters=1000)
    said = {
        "other architecture": "Set pretrain.arch to resnet34",
        "no weights": "it is an HTML page",
        "network of another architecture": "Set pretrain.arch to resnet10_tiny",
    }[kind]
    for attempt in (lambda: describe_plan(config, tmp_path / "run"), lambda: run_stages(config, tmp_path / "run")):
        with pytest.raises(CfvidError) as refused:
            attempt()
        assert said in str(refused.value)
        assert "cluster.num_clusters is 1000" in str(refused.value), "told together with what else is wrong"
        assert not (tmp_path / "run" / "pretrain").exists()


def test_nothing_is_warned_of_before_weights_are_refused(tmp_path: Path) -> None:
    """All architectures are tried, to name one that fits; pytorchvideo, once imported, warned of torch.jit.script."""
    torch.save({"a.weight": torch.zeros(3, 3)}, tmp_path / "weights.pth")
    code = (
        "import sys; from pathlib import Path; from cfvid.models.foreign_network import find_network\n"
        "try: find_network(Path(sys.argv[1]), 'resnet18')\nexcept Exception as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "weights.pth")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "does not fit resnet18" in ended.stdout
    assert ended.stderr == ""


def test_all_changed_stages_are_refused_together_and_nothing_is_overwritten(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = {"pretrain__training__epochs": 1, "retrain__training__epochs": 1}
    stages = ["pretrain", "extract", "cluster", "retrain"]
    run_stages(tiny_config(pictures, **short), run, stages=stages)
    before = {path: path.read_bytes() for path in [run / "config.yaml", *(run / "data").iterdir()]}
    more = write_pictures(tmp_path / "more", train=9)
    changed = tiny_config(more, **short, cluster__num_clusters=3, retrain__training__lr=0.5)
    with pytest.raises(InputsChanged) as refused:
        run_stages(changed, run, stages=stages)
    text = str(refused.value)
    assert "4 things stand in the way" in text
    for said in ("manifest", "num_clusters: 4 -> 3", "lr: 0.02 -> 0.5"):
        assert said in text
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("stages", [["pretrain", "klustern"], "cluster"])
def test_stages_that_do_not_exist_are_refused(pictures: Path, tmp_path: Path, stages: list[str]) -> None:
    with pytest.raises(ConfigError, match="pretrain, extract, cluster"):
        run_stages(tiny_config(pictures), tmp_path / "run", stages=stages)


def test_one_fault_is_raised_as_it_is_and_equal_ones_once() -> None:
    faults = Faults()
    for _ in range(2):
        with faults.collected():
            raise DataError("no samples", fix="add some")
    with pytest.raises(DataError, match="^no samples"):
        faults.raise_all()


def test_noisy_labels_are_found_when_the_pool_names_its_samples_otherwise(pictures: Path, tmp_path: Path) -> None:
    more = write_pictures(tmp_path / "more", seed=1)
    config = tiny_config(pictures, pretrain__training__epochs=1, data__clusterfit=[str(pictures), str(more)])
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract", "cluster"])
    quality = json.loads((tmp_path / "run" / "cluster" / "quality.json").read_text())
    assert quality["labels"]["num_samples"] == 48
    assert quality["noisy_labels"]["num_samples"] == 24


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pretrain__training__batch_size": 7}, "pretrain: batches of 7 cannot be divided among 4 processes"),
        ({"retrain__training__batch_size": 7}, "retrain: batches of 7"),
        ({"transfer__finetune__batch_size": 6}, "finetune on target: batches of 6"),
        ({"transfer__heads__batch_size": 6, "transfer__protocols": ["heads"]}, "heads on target: batches of 6"),
        (
            {"transfer__heads__by_target": {"target": {"batch_size": 5}}, "transfer__protocols": ["heads"]},
            "heads on target: batches of 5",
        ),
        ({"data__max_clusterfit": 7, "cluster__num_clusters": 2}, "retrain: batches of 7"),
    ],
)
def test_batches_that_cannot_be_divided_are_told_before_any_work(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    """Batches of fewer than two samples per process failed when their stage began, after all those before it."""
    run = Run(tiny_config(pictures, **changes), tmp_path / "run")
    check(run, TRAIN)  # one process, which is connected to no others
    monkeypatch.setattr(launch, "num_processes", lambda: 4)
    with pytest.raises(ConfigError, match=told) as refused:
        check(run, TRAIN)
    assert "each of which needs at least 2" in str(refused.value)
