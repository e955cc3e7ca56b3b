"""The whole configuration: shipped files, layers, and every kind of fault with its place and the nearest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support.tiny import configure, tiny_values

from cfvid.config import RunConfig, load_config, resolve, schema
from cfvid.errors import ConfigError
from cfvid.loading import load
from cfvid.modalities import MODALITIES
from cfvid.sections.data import DataConfig
from cfvid.stages.context import dump_config
from cfvid.yaml_layers import parse_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
ARCHITECTURES = {"flat": 2, "deep": 3}
WHOLE = """\
modality: image
input: {crop_size: 16, resize: 16}
data:
  pretrain: some/folder
  targets:
    first: [{path: a}, b]
pretrain:
  arch: flat
  training: {epochs: 2, batch_size: 8, lr: 0.1}
cluster: {num_clusters: 4}
retrain:
  training: {epochs: 2, batch_size: 8, lr: 0.1}
transfer:
  finetune: {epochs: 2, batch_size: 8, lr: 0.1}
"""


def faults_of(*texts: str) -> list[str]:
    """The fault lines of these layers."""
    layers = [parse_yaml(text, name=f"{number}.yaml") for number, text in enumerate(texts)]
    with pytest.raises(ConfigError) as caught:
        load_config(layers, modalities=MODALITIES, architectures=ARCHITECTURES)
    head, *lines = caught.value.what.splitlines()
    assert head == f"The configuration has {len(lines)} fault{'s' * (len(lines) != 1)}:"
    return [line.strip() for line in lines]


def loaded(*texts: str) -> RunConfig:
    layers = [parse_yaml(text, name=f"{number}.yaml") for number, text in enumerate(texts)]
    return load_config(layers, modalities=MODALITIES, architectures=ARCHITECTURES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_its_dump_gives_the_same(path: Path, tmp_path: Path) -> None:
    config = load([], config=str(path))
    dumped = tmp_path / "config.yaml"
    dumped.write_text(dump_config(config), encoding="utf-8")
    assert load([], config=str(dumped)) == config
    assert load([], stored=tmp_path / "config.yaml") == config
    assert config.model_fields_set >= {"modality", "data", "pretrain", "cluster", "retrain", "transfer"}


@pytest.mark.parametrize("name", list(MODALITIES))
def test_every_modality_ships_its_defaults(name: str) -> None:
    assert load([], modality=name).modality == name


def test_layers_from_weak_to_strong(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "modality: video\ncluster: {num_clusters: 7}\ndata: {pretrain: /p, targets: {fight: /f, tennis: /t}}\n"
    )
    config = load(["--cluster.iterations", "3", "--pretrain.training.milestones=[]"], config=str(mine))
    assert (config.cluster.num_clusters, config.cluster.iterations) == (7, 3)
    assert list(config.data.targets) == ["fight", "tennis"]
    assert config.pretrain.arch == "r2plus1d_18"
    replaced = load(["--data.targets", "{other: /o}"], config=str(mine))
    assert list(replaced.data.targets) == ["other"]
    assert list(load(["--data.targets.other.path", "/o"], config=str(mine)).data.targets) == ["other"]


@pytest.mark.parametrize(
    ("value", "paths"),
    [("a", ["a"]), ("[a, b]", ["a", "b"]), ("{path: a}", ["a"]), ("[{path: a, kind: folder}, b]", ["a", "b"])],
)
def test_sources_are_a_path_or_a_list(value: str, paths: list[str]) -> None:
    for key in ("pretrain", "clusterfit"):
        config = loaded(WHOLE, f"data: {{{key}: {value}}}")
        assert [source.path for source in getattr(config.data, key)] == paths
    assert [s.path for s in loaded(WHOLE, f"data: {{targets: {{t: {value}}}}}").data.targets["t"]] == paths


def test_defaults_that_follow_other_keys() -> None:
    config = loaded(WHOLE)
    assert config.data.clusterfit is None
    assert config.retrain_arch == "flat"
    assert set(config.plain("seed", "cluster")) == {"seed", "cluster"}
    assert yaml.safe_load(dump_config(config)) == config.plain()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cluster: {num_cluster: 5}", "1.yaml:1: unknown key cluster.num_cluster; did you mean cluster.num_clusters?"),
        ("num_cluster: 5", "1.yaml:1: unknown key num_cluster; did you mean cluster.num_clusters?"),
        ("num_clusters: 5", "1.yaml:1: unknown key num_clusters; did you mean cluster.num_clusters?"),
        ("sed: 5", "1.yaml:1: unknown key sed; did you mean seed?"),
        ("\ntrain:\n  epoch: 3", "1.yaml:2: unknown key train"),
        ("retrain: {epochs: 3}", "did you mean retrain.training.epochs?"),
        ("retrain:\n  training:\n    epoch: 3", "1.yaml:3: unknown key retrain.training.epoch; did you mean retrain."),
        ("input: {frame_rate_hz: 5}", "1.yaml:1: unknown key input.frame_rate_hz"),
        ("input: {cropsize: 5}", "did you mean input.crop_size?"),
        ("data: {pretrain: {pat: x, path: y}}", "1.yaml:1: unknown key data.pretrain.pat; did you mean data.pretrain."),
        ("data: {targets: {x: [{path: a},\n {path: b, pat: c}]}}", "1.yaml:2: unknown key data.targets.x.1.pat; did"),
        ("data: {targets: {x: {path: a, val_splitt: c}}}", "did you mean data.targets.x.val_split?"),
        ("data: {targets: {x: [{}]}}", "data.targets.x.0.path is missing"),
        ("zzzzzzzz: 1", "1.yaml:1: unknown key zzzzzzzz"),
    ],
)
def test_unknown_keys_name_the_nearest(text: str, told: str) -> None:
    faults = faults_of(WHOLE, text)
    assert any(told in fault for fault in faults), faults
    assert not any("zzzzzzzz; did" in fault for fault in faults)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cluster: {num_clusters: five}", "1.yaml:1: cluster.num_clusters: should be a valid integer"),
        ("cluster: {num_clusters: 2.5}", "cluster.num_clusters: should be a valid integer, got a number with a frac"),
        ("cluster: {num_clusters: yes}", "cluster.num_clusters: should be a number (given: True)"),
        ("cluster: {num_clusters: 0}", "cluster.num_clusters: should be greater than or equal to 1 (given: 0)"),
        ("cluster: {num_clusters: [5]}", "cluster.num_clusters: should be a valid integer"),
        ("cluster: 5", "1.yaml:1: cluster: should be a valid dictionary"),
        ("cluster: {distance: cosine}", "cluster.distance: should be 'spherical' or 'euclidean' (given: 'cosine')"),
        ("cluster: {whiten: true}", "cluster: whiten needs pca_dim"),
        ("cluster: {distance: spherical, l2_normalize: false}", "distance: spherical needs l2_normalize"),
        ("pretrain: {training: {lr: no}}", "pretrain.training.lr: should be a number"),
        ("pretrain: {training: {lr: .inf}}", "pretrain.training.lr: should be a finite number"),
        ("pretrain: {training: {lr: .nan}}", "pretrain.training.lr: should be"),
        ("pretrain: {training: {lr: -1}}", "pretrain.training.lr: should be greater than 0"),
        ("pretrain: {training: {schedule: step}}", "schedule: step needs milestones"),
        ("pretrain: {training: {milestones: [1]}}", "milestones have no effect with schedule: cosine"),
        ("pretrain: {training: {warmup_epochs: 9}}", "warmup_epochs (9.0) must be less than epochs (2)"),
        ("data: {skip_budget: 5}", "data.skip_budget: should be less than or equal to 1"),
        ("data: {pretrain: 5}", "data.pretrain: a source is a path, or a mapping with a path (given: 5)"),
        ("data: {pretrain: []}", "data.pretrain: Value should have at least 1 item"),
        ("data: {clusterfit: []}", "data.clusterfit: Value should have at least 1 item"),
        ("data: {pretrain: {path: a, kind: foldr}}", "data.pretrain.kind: should be 'auto', 'embedded', 'folder'"),
        ("data: {targets: embedded:shapes}", "data.targets: should be a valid dictionary"),
        ("data: {targets: {../x: a}}", "1.yaml:1: ../x: in a file, keys stand inside"),
        ("data: {targets: {a/b: a}}", "data.targets.a/b: "),
        ("data: {targets: {pretrain: a}}", "data.targets.pretrain: no target may have this name"),
        ("data: {pretrain: {path: a, val_split: train}}", "data.pretrain: train_split and val_split are both 'train'"),
        ("input: {resize: 8}", "1.yaml:1: input: resize (8) must be at least crop_size (16)"),
        ("pretrain: {input: {resize: 8}}", "pretrain.input: resize (8) must be at least crop_size (16)"),
        ("pretrain: {input: {min_scal: 0.5}}", "unknown key pretrain.input.min_scal"),
        ("pretrain: {input: {min_scale: small}}", "pretrain.input.min_scale: should be a valid number"),
        ("pretrain: {weights: x.pth, input: {min_scale: 0.5}}", "input: no effect with weights"),
        ("pretrain: {input: 5}", "pretrain.input: should be a valid dictionary"),
        ("transfer: {folds: {all: [x, y]}}", "transfer.folds.all: data.targets has no 'x'"),
        ("transfer: {folds: {all: [x]}}", "transfer.folds.all: List should have at least 2 items"),
        ("transfer: {seeds: [0, x]}", "1.yaml:1: transfer.seeds.1: should be a valid integer"),
        ("transfer: {seeds: []}", "transfer.seeds: List should have at least 1 item"),
        ("transfer: {networks: [n_pre, n_fc]}", "transfer.networks.1: should be 'n_pre', 'n_cf' or 'random'"),
        ("pretrain: {arch: deep}", "1.yaml:1: pretrain.arch: 'deep' is not one of flat"),
        ("pretrain: {arch: flt}", "pretrain.arch: 'flt' is not one of flat; did you mean flat?"),
        ("retrain: {arch: nothing}", "retrain.arch: 'nothing' is not one of flat"),
        ("pretrain: {arch: [flat]}", "pretrain.arch: should be a valid string"),
        ("modality: vidoe", "1.yaml:1: modality: 'vidoe' is not one of video, image, frame; did you mean video?"),
        ("modality: [image]", "1.yaml:1: modality: should be a valid string"),
        ("modality: null", "1.yaml:1: modality: should be a valid string (given: None)"),
    ],
)
def test_wrong_values(text: str, told: str) -> None:
    faults = faults_of(WHOLE, text)
    assert len(faults) == 1
    assert told in faults[0]


@pytest.mark.parametrize("section", ["data", "pretrain", "retrain", "transfer", "input"])
def test_missing_sections(section: str) -> None:
    text = re.sub(rf"^{section}:.*\n(  .*\n)*", "", WHOLE, flags=re.MULTILINE)
    assert faults_of(text) == [f"{section} is missing"]


def test_an_unknown_modality_hides_no_other_fault_and_invents_none() -> None:
    faults = faults_of("modality: vidoe\ninput: {anything: 1}\ncluster: {num_cluster: 5}\nseed: x\n")
    assert [fault.split(": ")[1][:15] for fault in faults] == ["modality", "seed", "unknown key clu"]


def test_a_missing_modality_is_told_once() -> None:
    assert faults_of("seed: 1") == ["modality is missing; it is one of video, image, frame"]


def test_every_fault_of_every_layer_is_in_one_message() -> None:
    faults = faults_of(
        WHOLE,
        "seed: 1\nseed: 2\ncluster: {num_cluster: 5}\npretrain: {arch: nothing}",
        "data: {skip_budget: much}\nzzz: 1",
    )
    assert len(faults) == 5
    for told in ("seed stands twice", "num_cluster;", "'nothing' is not", "skip_budget", "2.yaml:2: unknown key zzz"):
        assert sum(told in fault for fault in faults) == 1, told


def test_a_file_that_is_no_yaml_gives_that_one_fault() -> None:
    assert faults_of("a: [1", WHOLE) == ["0.yaml:1: expected ',' or ']', but got '<stream end>'"]


def test_many_faults_end() -> None:
    faults = faults_of(WHOLE, "\n".join(f"key{number}: 1" for number in range(3000)))
    assert len(faults) == 51
    assert faults[-1] == "... and 2950 more"


def test_long_values_are_cut() -> None:
    assert len(faults_of(WHOLE, f"seed: {'x' * 100_000}")[0]) < 300


def test_a_configuration_cannot_change() -> None:
    config = configure(tiny_values(Path("x")))
    with pytest.raises(ValueError, match="frozen"):
        config.cluster.num_clusters = 3


def test_paths_start_at_the_root_at_home_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve("a", root="/r") == Path("/r/a")
    assert resolve("a", root=None) == Path("a")
    assert resolve("/a", root="/r") == Path("/a")
    assert resolve("~/a", root="~/r") == Path("/home/me/a")
    assert resolve("a", root="~/r") == Path("/home/me/r/a")


def test_one_modality_has_one_schema() -> None:
    assert schema(MODALITIES["image"].Input) is schema(MODALITIES["image"].Input)  # else no two are equal


def test_each_key_is_documented_where_its_name_does_not_say_it_all() -> None:
    schema = DataConfig.model_json_schema()
    assert "skip_budget" in schema["properties"]
    assert "unreadable" in schema["properties"]["skip_budget"]["description"]


@pytest.mark.parametrize(
    "key",
    [
        "pretrain.training.batch_size",
        "retrain.training.batch_size",
        "transfer.finetune.batch_size",
        "transfer.heads.batch_size",
        "transfer.heads.by_target.target.batch_size",
    ],
)
def test_batches_of_one_are_refused(key: str) -> None:
    """A batch size of 1 failed after its stage had begun: "not a single batch of epoch 1 could be read"."""
    told = r"batch_size: .*should be at least 2: batch normalisation has no statistics over one sample; .*accumulation"
    with pytest.raises(ConfigError, match=told) as refused:
        configure(tiny_values(Path("anywhere"), **{key.replace(".", "__"): 1}))
    assert key.split(".")[1] in str(refused.value)
    configure(tiny_values(Path("anywhere"), **{key.replace(".", "__"): 2}))
