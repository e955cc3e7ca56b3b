"""Data of the user's own: nothing that cfvid draws, and nothing that was chosen for other data, comes in unseen."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny import configure, tiny_config, tiny_values, write_pictures

from cfvid.cli import main
from cfvid.errors import ConfigError
from cfvid.experiments.cells import expand
from cfvid.experiments.spec import ExperimentConfig, layer_of, narrowed, on_data_of, read_experiment
from cfvid.loading import load, shipped_files
from cfvid.modalities import MODALITIES
from cfvid.pipeline import run_stages
from cfvid.sections.training import TrainingConfig
from cfvid.stages import Run
from cfvid.yaml_layers import Layer, read_yaml

MINE = {"path": "my", "kind": "folder"}
EXPERIMENTS = sorted(shipped_files("experiments"))


def drawn_values(modality: str) -> dict[str, Any]:
    """What the configuration of small drawn data says otherwise than the defaults for data of the user's own."""
    return flat(read_yaml(shipped_files()[f"quick-{modality}"]).values)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


@pytest.mark.parametrize("modality", list(MODALITIES))
def test_a_file_that_names_its_data_alone_resolves_to_no_drawn_default(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on the user's folder had drawn targets, a 32 pixel input and a toy schedule."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"modality": modality, "data": {"pretrain": MINE}}))
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "embedded" not in shown
    values = yaml.safe_load(shown)
    assert values["data"]["targets"] == {}
    assert [source["path"] for source in values["data"]["pretrain"]] == ["my"]
    defaults = flat(read_yaml(shipped_files()[modality]).values)
    resolved = flat(values)
    assert {key: resolved[key] for key in defaults} == defaults
    for key, drawn in drawn_values(modality).items():
        assert resolved.get(key) != drawn or defaults.get(key) == drawn, key


@pytest.mark.parametrize("modality", list(MODALITIES))
def test_where_no_data_are_named_the_small_drawn_run_is_used_and_told(
    modality: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cfvid")
    config = load(["--seed", "3"], modality=modality)
    assert config.data.pretrain[0].path.startswith("embedded:")
    assert f"the run is the shipped quick-{modality}" in caplog.text
    # Drawn data that are named are no data of the user's own.
    drawn = load(["--data.pretrain", config.data.pretrain[0].path], modality=modality)
    assert drawn.pretrain.arch == config.pretrain.arch
    assert drawn.data.targets == config.data.targets


@pytest.mark.parametrize("section", ["pretrain", "retrain"])
@pytest.mark.parametrize("modality", list(MODALITIES))
def test_one_epoch_is_never_refused_for_a_warm_up_that_nobody_asked_for(modality: str, section: str) -> None:
    for data in ([], ["--data.pretrain", "my"]):
        config = load([f"--{section}.training.epochs", "1", *data], modality=modality)
        assert getattr(config, section).training.warmup == pytest.approx(0.1)


def test_the_warm_up_follows_the_epochs_unless_it_is_given() -> None:
    def warmup(**values: Any) -> float:
        return TrainingConfig.model_validate({"batch_size": 2, "lr": 0.1, **values}).warmup

    assert warmup(epochs=105, warmup_epochs=None) == 5.0
    assert warmup(epochs=20, warmup_epochs=None) == 2.0
    assert warmup(epochs=20) == 0.0
    assert warmup(epochs=20, warmup_epochs=7) == 7.0


def test_targets_alone_are_refused_since_nothing_drawn_stands_in() -> None:
    with pytest.raises(ConfigError, match=r"data: names no samples to learn from; give pretrain, or clusterfit"):
        load(["--data.targets", "{mine: my}"], modality="image")


def test_a_pool_alone_is_also_what_n_pre_learns_from() -> None:
    data = load(["--data.clusterfit", "pool"], modality="image").data
    assert [source.path for source in data.pretrain] == ["pool"]
    assert data.clusterfit is None


@pytest.mark.parametrize(
    ("weak", "strong", "pretrain", "clusterfit"),
    [
        # A source with a path of its own inherits nothing: half of the user's classes had vanished.
        (
            {"pretrain": {"path": "a", "class_share": [0, 0.5], "max_samples": 9}},
            {"pretrain": {"path": "b"}},
            "b",
            None,
        ),
        ({"pretrain": {"path": "a", "max_samples": 9}}, {"pretrain": "b"}, "b", None),
        # Options without a path belong to the source that is there.
        ({"pretrain": {"path": "a"}}, {"pretrain": {"max_samples": 9}}, "a limited", None),
        ({"pretrain": "a"}, {"pretrain": {"max_samples": 9}}, "a limited", None),
        ({"pretrain": "a", "clusterfit": "c"}, {"pretrain": {"max_samples": 9}}, "a limited", "c"),
        # Whoever names pretrain alone clusters the same: N_cf had been trained on other data without a word.
        ({"pretrain": "a", "clusterfit": "c"}, {"pretrain": "b"}, "b", None),
        ({"pretrain": "a", "clusterfit": "c"}, {"pretrain": ["b"]}, "b", None),
        ({"pretrain": "a", "clusterfit": "c"}, {"pretrain": "b", "clusterfit": "d"}, "b", "d"),
        ({"pretrain": "a", "clusterfit": {"path": "c", "max_samples": 9}}, {"clusterfit": {"path": "d"}}, "a", "d"),
    ],
)
def test_what_a_stronger_layer_replaces_of_the_data(
    weak: dict[str, Any], strong: dict[str, Any], pretrain: str, clusterfit: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "weak.yaml"
    path.write_text(yaml.safe_dump({"modality": "image", "data": weak}))
    overrides = [token for key, value in strong.items() for token in (f"--data.{key}", json.dumps(value))]
    data = load(overrides, config=str(path)).data

    def text(source: Any) -> str:
        assert source.class_share is None
        return f"{source.path}{' limited' if source.max_samples else ''}"

    assert [text(source) for source in data.pretrain] == [pretrain]
    assert (data.clusterfit and [text(source) for source in data.clusterfit]) == (clusterfit and [clusterfit])


# ---------------------------------------------------------------------------------------------- experiments


def mine(modality: str) -> Layer:
    return layer_of(
        {"modality": modality, "data": {"pretrain": MINE, "targets": {"other": "theirs"}}}, name="mine.yaml"
    )


@pytest.mark.parametrize("size", ["smoke", "small", "paper"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_on_own_data_has_nothing_of_its_data(name: str, size: Any, tmp_path: Path) -> None:
    """weak-images clustered its Tiny-ImageNet whatever data.pretrain was, and videos.yaml the drawn motions."""
    experiment = read_experiment(name)
    modality = experiment.modality
    for config, overrides in ((mine(modality), None), (None, mine(modality))):
        if overrides is not None:
            overrides.values.pop("modality")
        for group in expand(experiment, size=size, output=tmp_path, config=config, overrides=overrides):
            for cell in group.cells:
                data = cell.config.data
                assert [source.path for source in data.pretrain] == ["my"]
                assert data.clusterfit is None
                assert list(data.targets) == ["other"]
                assert all(source.class_share is None for source in data.pretrain)
                told = cell.config.plain()
                assert "embedded" not in json.dumps(told)
                archs = {cell.config.pretrain.arch, cell.config.retrain_arch}
                assert not [arch for arch in archs if arch.endswith(("_thin", "_tiny", "_mini"))]
                defaults = read_yaml(shipped_files()[modality]).values["input"]
                assert size == "paper" or {key: told["input"][key] for key in defaults} == defaults


def test_on_own_data_the_seeds_of_the_size_stay_and_points_can_be_chosen(tmp_path: Path) -> None:
    layers = [mine("image")]
    experiment = on_data_of(read_experiment("dcf-size"), "small", layers)
    assert experiment.sizes["small"].seeds == read_experiment("dcf-size").sizes["small"].seeds
    assert on_data_of(experiment, "small", layers) == experiment
    chosen = narrowed(experiment, "small", points=["half of D_pre", "D_pre"])
    half, whole, *_ = expand(chosen, size="small", output=tmp_path, config=layers[0])
    half_config, whole_config = (group.cells[1].config for group in (half, whole))
    assert (half_config.data.clusterfit_share, whole_config.data.clusterfit_share) == (0.5, 1.0)
    assert half_config.retrain.training.epochs == 2 * whole_config.retrain.training.epochs
    with pytest.raises(ConfigError, match="no point 'half as many, other classes'"):
        narrowed(experiment, "small", points=["half as many, other classes"])


def test_an_experiment_without_data_of_its_own_keeps_its_settings_on_any_data(tmp_path: Path) -> None:
    experiment = ExperimentConfig.model_validate(
        {
            "title": "Mine",
            "question": "Which?",
            "modality": "image",
            "arms": {"n_pre": {"network": "n_pre"}, "clusterfit": {}},
            "sizes": {"small": {"seeds": [0], "set": {"transfer.protocols": ["knn"]}}},
        }
    )
    [group] = expand(experiment, size="small", output=tmp_path, config=mine("image"))
    assert {tuple(cell.config.transfer.protocols) for cell in group.cells} == {("knn",)}


def test_points_and_arms_both_scale_and_the_axis_is_told_of_unknown_points() -> None:
    values: dict[str, Any] = {
        "title": "T",
        "question": "Q",
        "modality": "image",
        "axis": {"name": "p", "points": {"a": {}, "b": {}}, "scale": {"b": {"pretrain.training.epochs": 3}}},
        "arms": {"n_pre": {"network": "n_pre"}, "clusterfit": {"scale": {"pretrain.training.epochs": 2}}},
        "sizes": {"smoke": {"seeds": [0]}},
    }
    a, b = expand(ExperimentConfig.model_validate(values), size="smoke", output=Path("out"), config=mine("image"))
    assert [cell.config.pretrain.training.epochs for cell in (*a.cells, *b.cells)] == [100, 200, 300, 600]
    values["axis"]["scale"] = {"c": {}}
    with pytest.raises(ValueError, match="there is no point 'c'"):
        ExperimentConfig.model_validate(values)


# ---------------------------------------------------------------------------------------------- K, and no targets


@pytest.mark.parametrize(
    ("num_samples", "num_clusters"),
    [(1, 1), (2, 1), (100, 10), (4_000, 63), (6_400, 80), (1_281_167, 16_000), (19_000_000, 16_000), (400_000, 5_000)],
)
def test_k_follows_from_the_size_of_the_pool(num_samples: int, num_clusters: int) -> None:
    assert load(["--data.pretrain", "my"], modality="video").cluster.clusters_of(num_samples) == num_clusters
    assert load(["--cluster.num_clusters", "7"], modality="video").cluster.clusters_of(num_samples) == 7


def test_a_run_without_targets_ends_well_and_says_where_its_results_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It ended in "No answer yet: nothing has been scored", with a tick at transfer."""
    caplog.set_level(logging.INFO, logger="cfvid")
    data = write_pictures(tmp_path / "data")
    values = tiny_values(data, data__targets={}, pretrain__training__epochs=1, retrain__training__epochs=1)
    del values["cluster"]
    output = tmp_path / "run"
    run_stages(configure(values), output)
    shown = capsys.readouterr().out
    assert "cluster: K = 5 for a pool of 24 samples" in caplog.text  # the square root
    assert json.loads((output / "cluster" / "record.json").read_text())["facts"]["num_clusters"] <= 5
    assert "transfer: no targets are named" in caplog.text
    assert "No answer" not in shown
    assert "Missing" not in shown
    for path in (output / "retrain" / "network", output / "cluster" / "pseudo_labels.parquet"):
        assert str(path) in shown
        assert path.exists()
    report = json.loads((output / "report" / "report.json").read_text())
    assert {stage["name"]: stage["state"] for stage in report["stages"]}["transfer"] == "idle"
    page = (output / "report" / "report.html").read_text()
    assert "No targets are named" in page
    assert "did a new network" not in page


def test_a_share_of_the_pool_is_drawn(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data")
    for share, limit, expected in ((1.0, None, 24), (0.5, None, 12), (0.5, 20, 12), (0.5, 3, 3)):
        config = tiny_config(data, data__clusterfit_share=share, data__max_clusterfit=limit)
        assert len(Run(config, tmp_path / "run").manifest("clusterfit").split("train")) == expected
