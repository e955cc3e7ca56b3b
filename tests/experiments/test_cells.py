"""Experiments as YAML, and the runs that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cfvid.errors import ConfigError
from cfvid.experiments.cells import expand
from cfvid.experiments.spec import ExperimentConfig, layer_of, narrowed, read_experiment
from cfvid.loading import shipped_files

SHIPPED = sorted(shipped_files("experiments"))
SIZES = ("smoke", "small", "paper")


def experiment(**changes: Any) -> ExperimentConfig:
    values: dict[str, Any] = {
        "title": "A test",
        "question": "Does it?",
        "modality": "image",
        "axis": {"name": "p", "key": "pretrain.label_noise", "values": [0.0, 0.5]},
        "arms": {
            "n_pre": {"network": "n_pre"},
            "n_pre_2x": {"network": "n_pre", "scale": {"pretrain.training.epochs": 2}},
            "clusterfit": {},
            "again": {"starts_from": "clusterfit"},
            "random": {"network": "random"},
        },
        "sizes": {"smoke": {"seeds": [3, 4], "set": {"cluster.num_clusters": 7}}},
    }
    return ExperimentConfig.model_validate(values | changes)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_has_three_sizes_whose_runs_are_valid(name: str, tmp_path: Path) -> None:
    shipped = read_experiment(name)
    assert set(shipped.sizes) == set(SIZES)
    for size in SIZES:
        groups = expand(shipped, size=size, output=tmp_path)  # validates the configuration of every run
        folders = [cell.folder for group in groups for cell in group.cells]
        assert len(set(folders)) == len(folders) > 0
        if size == "small":
            assert len({group.seed for group in groups}) >= 3


def test_points_seeds_and_arms_become_runs(tmp_path: Path) -> None:
    groups = expand(experiment(), size="smoke", output=tmp_path)
    assert [(group.point, group.seed) for group in groups] == [("0.0", 3), ("0.5", 3), ("0.0", 4), ("0.5", 4)]
    cells = {cell.arm: cell for cell in groups[3].cells}
    assert {cell.config.pretrain.label_noise for cell in cells.values()} == {0.5}
    assert {cell.config.seed for cell in cells.values()} == {4}
    assert {tuple(cell.config.transfer.seeds) for cell in cells.values()} == {(4,)}
    assert cells["clusterfit"].config.cluster.num_clusters == 7
    assert cells["n_pre_2x"].config.pretrain.training.epochs == 2 * cells["n_pre"].config.pretrain.training.epochs
    assert cells["random"].stages == ["transfer"]
    assert cells["n_pre"].config.transfer.networks == ["n_pre"]


def test_an_arm_that_starts_from_another_comes_after_it_and_takes_its_network(tmp_path: Path) -> None:
    arms = {"again": {"starts_from": "clusterfit"}, "clusterfit": {}, "n_pre": {"network": "n_pre"}}
    [first, *_] = expand(experiment(arms=arms), size="smoke", output=tmp_path)
    assert [cell.arm for cell in first.cells] == ["clusterfit", "again", "n_pre"]
    source = first.cells[0].folder / "retrain" / "network"
    assert first.cells[1].config.pretrain.weights == str(source)


def test_teachers_are_extracted_and_named(tmp_path: Path) -> None:
    arms = {"n_pre": {"network": "n_pre"}, "clusterfit": {"teachers": ["other"]}, "other": {"network": "n_pre"}}
    [first, *_] = expand(experiment(arms=arms), size="smoke", output=tmp_path)
    cells = {cell.arm: cell for cell in first.cells}
    assert cells["other"].stages == ["pretrain", "extract", "transfer"]
    assert cells["n_pre"].stages == ["pretrain", "transfer"]
    assert cells["clusterfit"].config.cluster.more_features == [str(cells["other"].folder / "extract")]


def test_overrides_are_stronger_than_all_else(tmp_path: Path) -> None:
    layer = layer_of({"cluster.num_clusters": 9, "pretrain.training.epochs": 5}, name="command line")
    cells = {c.arm: c for c in expand(experiment(), size="smoke", output=tmp_path, overrides=layer)[0].cells}
    assert cells["clusterfit"].config.cluster.num_clusters == 9
    assert cells["n_pre_2x"].config.pretrain.training.epochs == 10  # twice what was asked for


def test_a_configuration_of_other_data_is_stronger_than_the_size_and_weaker_than_points(tmp_path: Path) -> None:
    other = layer_of(
        {"seed": 7, "data": {"pretrain": "pool", "targets": {"mine": "pictures"}}, "pretrain.label_noise": 0.9},
        name="mine",
    )
    size = {"seeds": [3], "points": ["0.5"], "any_data": True, "set": {"data.targets": {"its": "own"}}}
    [group] = expand(experiment(sizes={"smoke": size}), size="smoke", output=tmp_path, config=other)
    for cell in group.cells:
        assert list(cell.config.data.targets) == ["mine"]
        assert cell.config.pretrain.label_noise == 0.5
        assert cell.config.seed == 3


def test_settings_in_common_are_weaker_than_the_experiments_own_and_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "common.yaml"
    path.write_text(
        "smoke:\n  cluster: {num_clusters: 3, iterations: 4}\n  seed: 9\nsmall: {cluster: {num_clusters: 5}}\n"
    )
    spec = experiment(settings=str(path))
    for cell in expand(spec, size="smoke", output=tmp_path)[0].cells:
        assert cell.config.cluster.num_clusters == 7
        assert cell.config.cluster.iterations == 4
        assert cell.config.seed == 3
    path.write_text("smoke:\n  cluster:\n    num_cluster: 3\n")
    with pytest.raises(ConfigError, match=r"common\.yaml:3: unknown key cluster\.num_cluster; did you mean"):
        expand(spec, size="smoke", output=tmp_path)
    path.write_text("smok: {}\nsmall: 3\n")
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*common\.yaml:1: smok: .*common\.yaml:2: small: "):
        expand(spec, size="smoke", output=tmp_path)
    with pytest.raises(ConfigError, match="no shipped setting 'image'; did you mean images"):
        expand(experiment(settings="image"), size="smoke", output=tmp_path)


def test_a_configuration_of_another_modality_is_refused(tmp_path: Path) -> None:
    other = layer_of({"modality": "video"}, name="mine.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml is for video; this experiment is image"):
        expand(experiment(), size="smoke", output=tmp_path, config=other)


def test_an_experiment_can_be_narrowed_and_given_more_seeds(tmp_path: Path) -> None:
    some = narrowed(experiment(), "smoke", seeds=[0, 1, 2], points=["0.5"], arms=["n_pre", "clusterfit"])
    groups = expand(some, size="smoke", output=tmp_path)
    assert [(group.point, group.seed) for group in groups] == [("0.5", 0), ("0.5", 1), ("0.5", 2)]
    assert [cell.arm for cell in groups[0].cells] == ["n_pre", "clusterfit"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"seeds": [1, 1]}, "1 is listed twice"),
        ({"points": ["0.7"]}, "no point '0.7'"),
        ({"arms": ["n_pre", "clusterfit", "n_cf"]}, "no arm 'n_cf'; there are n_pre"),
        ({"arms": ["clusterfit", "random"]}, "nothing to compare"),
        ({"arms": ["n_pre", "random"]}, "nothing to compare"),
        ({"seeds": ["a", "b"]}, "has 2 faults"),
    ],
)
def test_what_an_experiment_does_not_have_cannot_be_chosen(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        narrowed(experiment(), "smoke", **chosen)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "nothing"}, "there is no arm 'nothing'"),
        ({"contenders": ["clusterfits"]}, "there is no arm"),
        ({"axis": {"name": "p", "key": "a.b"}}, "either a key with values, or points"),
        ({"sizes": {"smoke": {"seeds": [0], "points": ["0.9"]}}}, "no point '0.9'"),
        ({"sizes": {"huge": {"seeds": [0]}}}, "smoke"),
        ({"paper": [{"what": "", "columns": [], "rows": {}, "mark": "R", "source": ""}]}, "F"),
    ],
)
def test_faults_of_an_experiment_are_told(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    values = yaml.safe_load(shipped_files("experiments")["label-noise"].read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=said):
        read_experiment(str(path))


@pytest.mark.parametrize(
    "settings",
    [{"seed": 5}, {"transfer.seeds": [0]}, {"pretrain.label_noise": 0.1}, {"cluster": {"method": "prototypes"}}],
)
def test_overrides_cannot_contradict_points_arms_and_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    arms = {"n_pre": {"network": "n_pre"}, "clusterfit": {"set": {"cluster.method": "kmeans"}}}
    with pytest.raises(ConfigError, match="The experiment itself sets"):
        expand(experiment(arms=arms), size="smoke", output=tmp_path, overrides=layer_of(settings, name="command line"))


def test_points_whose_folders_would_be_one_are_refused(tmp_path: Path) -> None:
    axis = {"name": "p", "points": {"a b": {}, "a-b": {}}}
    with pytest.raises(ConfigError, match="share the folder"):
        expand(experiment(axis=axis), size="smoke", output=tmp_path)


def test_lists_are_scaled_and_random_networks_have_the_architecture_of_n_cf(tmp_path: Path) -> None:
    training = {"epochs": 30, "schedule": "step", "milestones": [10, 20]}
    arms = {
        "n_pre": {"network": "n_pre"},
        "twice": {"network": "n_pre", "scale": {"pretrain.training.epochs": 2, "pretrain.training.milestones": 2}},
        "clusterfit": {},
        "alike": {"network": "n_pre", "arch_of_n_cf": True},
        "random": {"network": "random"},
    }
    sizes = {"smoke": {"seeds": [0], "set": {"pretrain.training": training, "retrain.arch": "resnet10_tiny"}}}
    cells = {
        c.arm: c.config for c in expand(experiment(arms=arms, sizes=sizes), size="smoke", output=tmp_path)[0].cells
    }
    assert cells["twice"].pretrain.training.milestones == [20, 40]
    archs = {arm: config.pretrain.arch for arm, config in cells.items()}
    assert archs["random"] == archs["alike"] == "resnet10_tiny"
    assert archs["n_pre"] == archs["clusterfit"] == "resnet10_thin"


def test_arms_in_a_circle_and_numbers_that_are_none(tmp_path: Path) -> None:
    circle = {"n_pre": {"network": "n_pre"}, "clusterfit": {"starts_from": "b"}, "b": {"starts_from": "clusterfit"}}
    with pytest.raises(ConfigError, match="need one another"):
        expand(experiment(arms=circle), size="smoke", output=tmp_path)
    scaled = {"n_pre": {"network": "n_pre"}, "clusterfit": {"scale": {"cluster.nothing": 2}}}
    with pytest.raises(ConfigError, match=r"cluster\.nothing"):
        expand(experiment(arms=scaled), size="smoke", output=tmp_path)


def test_an_unknown_name_and_size_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean label-noise"):
        read_experiment("lable-noise")
    with pytest.raises(ConfigError, match="no size 'paper'"):
        expand(experiment(), size="paper", output=tmp_path)
