"""pretrain: labels, weak tags, and networks that users bring; tests/tasks has the other tasks and the noise."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from support.tiny import tiny_config, write_pictures
from torchvision.models import resnet18

from cfvid.artifacts import Record
from cfvid.errors import ConfigError, DataError, InputsChanged, WeightsError
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.report.collect import collect
from cfvid.stages import Run
from cfvid.stages.pretrain import claims, read_noisy_labels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_labels_and_flips_are_recorded(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, pretrain__label_noise=0.5, pretrain__training__epochs=1)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    table = pq.read_table(tmp_path / "run" / "pretrain" / "labels.parquet").to_pylist()
    assert len(table) == 24
    assert 4 <= sum(row["flipped"] for row in table) <= 20
    for row in table:
        assert row["labels"] == [row["sample_id"].split("/")[1]]
        assert row["flipped"] == (row["labels"] != row["noisy_labels"])
    noisy = read_noisy_labels(tmp_path / "run" / "pretrain")
    assert noisy[table[3]["sample_id"]] == tuple(table[3]["noisy_labels"])


def test_n_pre_learns_an_easy_task(pictures: Path, tmp_path: Path) -> None:
    run_stages(tiny_config(pictures, pretrain__training__epochs=6), tmp_path / "run", stages=["pretrain"])
    facts = Record.read(tmp_path / "run" / "pretrain", kind="pretrain").facts
    assert facts["num_held_out"] == 12
    assert facts["held_out_accuracy"] > 0.7  # chance is 1/3
    network, saved = load_network(tmp_path / "run" / "pretrain" / "network")
    assert saved.classes == ["class0", "class1", "class2"]
    assert network.num_classes == 3


def test_weak_tags_train_with_several_labels_per_sample(pictures: Path, tmp_path: Path) -> None:
    rows = ["sample_id,path,label,split"]
    for path in sorted((pictures / "train").rglob("*.png")):
        name = path.parent.name
        rows.append(f"{path.stem}-{name},{path.relative_to(pictures)},{name}|any,train")
    manifest = tmp_path / "tags.csv"
    manifest.write_text("\n".join(rows) + "\n")
    source = {"path": str(manifest), "media_root": str(pictures), "label_separator": "|"}
    config = tiny_config(pictures, data__pretrain=[source], pretrain__training__epochs=1)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    _, saved = load_network(tmp_path / "run" / "pretrain" / "network")
    assert saved.classes == ["any", "class0", "class1", "class2"]


def test_n_pre_may_have_its_own_augmentation(pictures: Path, tmp_path: Path) -> None:
    """It changes the trained network, and nothing of what N_cf looks at."""
    short = {"pretrain__training__epochs": 1, "retrain__training__epochs": 1}
    inputs, weights = {}, {}
    for name, changes in {"same": {}, "own": {"min_scale": 1.0, "flip": False}}.items():
        config = tiny_config(pictures, pretrain__input=changes, **short)
        run_stages(config, tmp_path / name, stages=["pretrain", "extract", "cluster", "retrain"])
        for stage in ("pretrain", "retrain"):
            inputs[stage, name] = Record.read(tmp_path / name / stage, kind=stage).inputs["input"]
        weights[name] = (tmp_path / name / "pretrain" / "network" / "model.safetensors").read_bytes()
    assert weights["own"] != weights["same"]
    assert inputs["pretrain", "own"] == {**inputs["pretrain", "same"], "min_scale": 1.0, "flip": False}
    assert inputs["retrain", "own"] == inputs["retrain", "same"]
    _, saved = load_network(tmp_path / "own" / "pretrain" / "network")
    assert saved.input["flip"] is True


def test_one_class_is_a_clear_error(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", classes=1)
    with pytest.raises(DataError, match="only one label"):
        run_stages(tiny_config(data), tmp_path / "run", stages=["pretrain"])


# ---------------------------------------------------------------------------------------------- brought along


def test_a_cfvid_checkpoint_is_taken_as_it_is(pictures: Path, tmp_path: Path) -> None:
    run_stages(tiny_config(pictures, pretrain__training__epochs=1), tmp_path / "a", stages=["pretrain"])
    source = tmp_path / "a" / "pretrain" / "network"
    config = tiny_config(pictures, pretrain__weights=str(source))
    run_stages(config, tmp_path / "b", stages=["pretrain", "extract"])
    copy = tmp_path / "b" / "pretrain" / "network"
    assert (copy / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="resnet10_thin"):
        run_stages(
            tiny_config(pictures, pretrain__weights=str(source), pretrain__arch="resnet18_small"),
            tmp_path / "c",
            stages=["pretrain"],
        )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_foreign_state_dict_gives_the_same_features(pictures: Path, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    foreign = resnet18(num_classes=7).eval()
    path = tmp_path / f"weights{suffix}"
    state = {f"module.{name}": tensor for name, tensor in foreign.state_dict().items()}
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        save_file(state, path)
    config = tiny_config(pictures, pretrain__weights=str(path), pretrain__arch="resnet18")
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    network, _ = load_network(tmp_path / "run" / "pretrain" / "network")
    foreign.fc = torch.nn.Identity()
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval().trunk(batch), foreign(batch))
    report = json.loads((tmp_path / "run" / "pretrain" / "import.json").read_text())
    assert report["unexpected"] == ["module.fc.bias", "module.fc.weight"]
    assert report["missing"] == []
    assert report["mapped"]["module.conv1.weight"] == "conv1.weight"


def test_weights_of_another_shape_are_refused_with_the_cause(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = resnet18().state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    torch.save(state, path)
    config = tiny_config(pictures, pretrain__weights=str(path), pretrain__arch="resnet18")
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight is \(64, 64, 1, 1\)"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])


def test_weights_of_another_network_name_what_is_missing(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"encoder.weight": torch.zeros(3)}, path)
    config = tiny_config(pictures, pretrain__weights=str(path), pretrain__arch="resnet18")
    with pytest.raises(WeightsError, match=r"missing \(conv1.weight"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])


def test_weights_that_are_not_there_are_named(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, pretrain__weights=str(tmp_path / "nothing.pth"), pretrain__arch="resnet18")
    with pytest.raises(WeightsError, match=r"nothing\.pth"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])


# ---------------------------------------------------------------------------------------------- which one, and whether


def two_networks(path: Path) -> list[dict[str, torch.Tensor]]:
    """A checkpoint of DINO's form: student and teacher, of different numbers."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(resnet18().state_dict())
    student = {f"module.backbone.{name}": tensor for name, tensor in states[0].items()}
    teacher = {f"backbone.{name}": tensor for name, tensor in states[1].items()}
    torch.save({"student": student, "teacher": teacher, "args": argparse.Namespace(lr=1), "epoch": 5}, path)
    return states


def test_the_network_that_is_chosen_is_taken_recorded_and_compared(pictures: Path, tmp_path: Path) -> None:
    """Point 16 of the faults of everybody's files: of two networks in a file, the run says which one is meant."""
    _, teacher = two_networks(tmp_path / "dino.pth")
    common = {"pretrain__weights": str(tmp_path / "dino.pth"), "pretrain__arch": "resnet18"}
    with pytest.raises(WeightsError, match="holds 2 networks that fit resnet18") as caught:
        run_stages(tiny_config(pictures, **common), tmp_path / "run", stages=["pretrain"])
    assert caught.value.fix == "Choose one: pretrain.weights_prefix: teacher.backbone, for example."
    assert not (tmp_path / "run" / "pretrain").exists()
    chosen = tiny_config(pictures, **common, pretrain__weights_prefix="teacher")
    run_stages(chosen, tmp_path / "run", stages=["pretrain"])
    network, _ = load_network(tmp_path / "run" / "pretrain" / "network")
    assert torch.equal(network.trunk.state_dict()["conv1.weight"], teacher["conv1.weight"])
    told = json.loads((tmp_path / "run" / "pretrain" / "import.json").read_text())
    assert told["prefix"] == "teacher.backbone."
    assert told["other_networks"] == ["student.module.backbone."]
    assert told["left_out"] == ["argparse.Namespace"]
    assert told["file_kind"] == "a file of torch.save"
    inputs = Record.read(tmp_path / "run" / "pretrain", kind="pretrain").inputs["pretrain"]
    assert inputs["weights_prefix"] == "teacher"
    other = tiny_config(pictures, **common, pretrain__weights_prefix="student")
    with pytest.raises(InputsChanged, match='weights_prefix: "teacher" -> "student"'):
        run_stages(other, tmp_path / "run", stages=["pretrain"])


def test_the_choice_is_no_input_where_nothing_is_chosen(pictures: Path, tmp_path: Path) -> None:
    """Runs that were made before there was a choice stay what they are."""
    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    brought = {"pretrain__weights": str(tmp_path / "weights.pth"), "pretrain__arch": "resnet18"}
    for changes in (brought, {}):
        [(_, inputs)] = claims(Run(tiny_config(pictures, **changes), tmp_path / "run"))
        assert "weights_prefix" not in inputs["pretrain"]


def test_a_choice_without_a_file_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights_prefix: no effect without weights"):
        tiny_config(pictures, pretrain__weights_prefix="teacher")
    run_stages(tiny_config(pictures, pretrain__training__epochs=1), tmp_path / "a", stages=["pretrain"])
    ours = str(tmp_path / "a" / "pretrain" / "network")
    config = tiny_config(pictures, pretrain__weights=ours, pretrain__weights_prefix="teacher")
    with pytest.raises(ConfigError, match="is a network of cfvid") as caught:
        run_stages(config, tmp_path / "b", stages=["pretrain"])
    assert caught.value.fix == "Leave pretrain.weights_prefix out."


def test_weights_that_were_never_trained_are_told(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Public files called "pretrained" are a network as it was drawn: in the log, import.json and the report."""
    model = resnet18()
    fresh, trained = tmp_path / "fresh.pth", tmp_path / "trained.pth"
    torch.save(model.state_dict(), fresh)
    model.train()(torch.randn(2, 3, 32, 32))
    torch.save(model.state_dict(), trained)
    for path, is_random in ((fresh, True), (trained, False)):
        caplog.clear()
        run = tmp_path / path.stem
        config = tiny_config(pictures, pretrain__weights=str(path), pretrain__arch="resnet18")
        run_stages(config, run, stages=["pretrain"])
        assert json.loads((run / "pretrain" / "import.json").read_text())["never_trained"] is is_random
        assert (f"{path} was never trained" in caplog.text) is is_random
        problems = collect(Run(config, run))["problems"]
        assert [path.name in line and "random network" in line for line in problems] == [True] * is_random
    again = tiny_config(pictures, pretrain__weights=str(tmp_path / "fresh/pretrain/network"), pretrain__arch="resnet18")
    caplog.clear()
    run_stages(again, tmp_path / "again", stages=["pretrain"])
    assert "fresh/pretrain/network was never trained" in caplog.text


@pytest.mark.parametrize("names", [["pretrain"], ["pretrain", "network", "model.safetensors"]])
def test_a_folder_of_a_run_is_named_for_its_network(pictures: Path, tmp_path: Path, names: list[str]) -> None:
    """RUN and RUN/pretrain are no networks; the file in a network's folder is weights as any others."""
    run_stages(tiny_config(pictures, pretrain__training__epochs=1), tmp_path / "a", stages=["pretrain"])
    config = tiny_config(pictures, pretrain__weights=str((tmp_path / "a").joinpath(*names)))
    if len(names) > 1:
        run_stages(config, tmp_path / "b", stages=["pretrain"])
        return
    with pytest.raises(WeightsError, match="the folder of a stage") as caught:
        run_stages(config, tmp_path / "b", stages=["pretrain"])
    assert str(tmp_path / "a" / "pretrain" / "network") in str(caught.value.fix)


def test_a_moved_data_folder_is_still_the_same_manifest(pictures: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(pictures, tmp_path / "first"))
    run_stages(tiny_config(first, pretrain__training__epochs=1), tmp_path / "run", stages=["pretrain"])
    second = first.rename(tmp_path / "second")
    before = (tmp_path / "run" / "pretrain" / "record.json").read_bytes()
    run_stages(tiny_config(second, pretrain__training__epochs=1), tmp_path / "run", stages=["pretrain"])
    assert (tmp_path / "run" / "pretrain" / "record.json").read_bytes() == before
