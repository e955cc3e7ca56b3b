"""cfvid export: N_cf and N_pre of a run leave it for other programs, and say where they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import tiny_config, write_pictures
from torchvision.models import resnet18

from cfvid.artifacts import Record
from cfvid.cli import EXPORT_FORMATS, NETWORKS, main
from cfvid.errors import ArtifactError
from cfvid.models.export import FORMATS
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.stages.export import STAGE_OF, export


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose N_pre was brought."""
    home = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), home / "weights.pth")
    config = tiny_config(
        write_pictures(home / "pictures"),
        pretrain__arch="resnet18",
        pretrain__weights=str(home / "weights.pth"),
        retrain__arch="resnet10_tiny",
        retrain__training__epochs=1,
        transfer__protocols=["linear"],
    )
    run_stages(config, home / "run", stages=["pretrain", "extract", "cluster", "retrain", "transfer"])
    return home / "run"


def test_n_cf_for_the_hub(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    folder = tmp_path / "hub"
    assert main(["export", "--output", str(made), "--format", "hub", "--out", str(folder)]) == 0
    assert capsys.readouterr().out == (
        f"{folder}: resnet10_tiny, trunk and head; torchvision has no resnet10_tiny; "
        "the names are those of its ResNet\n"
    )
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before, "a run folder is only read"
    network, _ = load_network(made / "retrain" / "network")
    state = load_file(folder / "model.safetensors")
    assert torch.equal(state["fc.weight"], network.head.weight)
    assert torch.equal(state["layer4.0.conv1.weight"], network.trunk.layer4[0].conv1.weight)
    card = (folder / "README.md").read_text()
    for text in (
        "N_cf of ClusterFit",
        "| clustered samples | 24 |",
        "| samples seen | 24 |",
        "| target | linear | 0 |",
    ):
        assert text in card
    assert str(tmp_path) not in card
    config = (folder / "config.json").read_text()
    assert str(made.parent) not in config, "nothing of the machine that made it"
    assert json.loads(config)["num_classes"] == network.num_classes


def test_n_pre_that_was_brought_goes_without_a_head(made: Path, tmp_path: Path) -> None:
    told = export(made, tmp_path / "hub", network="n_pre", format="hub")
    assert "trunk alone" in told
    model = resnet18()
    model.fc = torch.nn.Identity()
    model.load_state_dict(load_file(tmp_path / "hub" / "model.safetensors"), strict=True)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| weights from | weights\\.pth |" in card
    assert "| head | none |" in card
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["source"]["file"] == "weights.pth"


def test_scores_of_another_network_are_not_shown(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    record = run / "transfer" / "target" / "n_cf" / "linear-seed0" / "record.json"
    value = json.loads(record.read_text())
    value["inputs"]["network"] = "0" * 64
    record.write_text(json.dumps(value))
    export(run, tmp_path / "hub", network="n_cf", format="hub")
    assert "Transfer, in percent" not in (tmp_path / "hub" / "README.md").read_text()


def test_the_other_way_round(made: Path, tmp_path: Path) -> None:
    """An exported N_cf is brought to another run as its N_pre."""
    export(made, tmp_path / "n_cf.safetensors", network="n_cf", format="torchvision")
    config = tiny_config(
        made.parent / "pictures",
        pretrain__arch="resnet10_tiny",
        pretrain__weights=str(tmp_path / "n_cf.safetensors"),
    )
    run_stages(config, tmp_path / "next", stages=["pretrain"])
    ours, _ = load_network(tmp_path / "next" / "pretrain" / "network")
    theirs, _ = load_network(made / "retrain" / "network")
    assert all(torch.equal(a, b) for a, b in zip(ours.trunk.parameters(), theirs.trunk.parameters(), strict=True))


def test_every_format_is_offered(made: Path, tmp_path: Path) -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS
    assert tuple(STAGE_OF) == NETWORKS
    export(made, tmp_path / "x.pt2", network="n_cf", format="torch-export")
    network, _ = load_network(made / "retrain" / "network")
    batch = torch.randn(3, 3, 16, 16)
    features, _ = torch.export.load(tmp_path / "x.pt2").module()(batch)
    with torch.inference_mode():
        torch.testing.assert_close(features, network.eval().trunk(batch), rtol=1e-5, atol=1e-6)


def test_a_run_without_the_network_says_what_to_do(
    tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArtifactError, match="Run the stage that writes it first"):
        export(tmp_path, tmp_path / "x.pth", network="n_cf", format="torchvision")
    command = ["export", "--output", str(made), "--format", "onnx"]
    assert main([*command, "--out", str(tmp_path / "x.txt")]) == 2
    assert ".onnx" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "x.onnx"), "--cluster.k", "3"]) == 2
    assert "unknown arguments" in capsys.readouterr().err
    assert Record.read(made / "retrain", kind="retrain").facts["samples_seen"] == 24
