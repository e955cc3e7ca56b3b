"""Weights of other programs: whatever a file is like, the imported trunk computes what the original does, or it is
refused with the cause.

The originals are built here from torchvision's classes, independently of cfvid.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.tiny import configure, tiny_config, tiny_values, write_pictures
from torch import nn
from torchvision import models
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from cfvid.artifacts import digest_file
from cfvid.errors import WeightsError
from cfvid.models import references
from cfvid.models.foreign import Imported, load_foreign
from cfvid.models.known_sources import KNOWN_SOURCES, input_differences, recognise
from cfvid.models.weights import load_network
from cfvid.models.zoo import ARCHITECTURES, Network, build_network
from cfvid.stages import Run, pretrain

CLIP = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(5))
PICTURE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def lively(model: nn.Module) -> nn.Module:
    """Running statistics, scales and shifts as after a training: with fresh ones, a wrong eps hardly shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.003, 0.05)
            nn.init.uniform_(module.weight, 0.05, 0.2)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def video_resnet(layers: list[int], num_classes: int) -> VideoResNet:
    torch.manual_seed(1)
    return VideoResNet(BasicBlock, [Conv2Plus1D] * 4, layers, R2Plus1dStem, num_classes=num_classes)


def vmz(layers: list[int], num_classes: int) -> nn.Module:
    """The published ports of IG-65M and XDC."""
    model = video_resnet(layers, num_classes)
    model.layer2[0].conv2[0] = Conv2Plus1D(128, 128, 288)
    model.layer3[0].conv2[0] = Conv2Plus1D(256, 256, 576)
    model.layer4[0].conv2[0] = Conv2Plus1D(512, 512, 1152)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps, module.momentum = 1e-3, 0.9
    return lively(model)


def features_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    model.fc = nn.Identity()
    with torch.inference_mode():
        return model.eval()(batch)


def imported(arch: str, path: Path) -> tuple[Network, Imported]:
    network = build_network(arch, num_classes=1, seed=0)
    found = load_foreign(path, network)
    return network.eval(), found


def assert_same(network: Network, original: nn.Module, batch: torch.Tensor) -> None:
    expected = features_of(original, batch)
    with torch.inference_mode():
        ours = network.trunk(batch)
    assert ours.shape == expected.shape
    assert expected.std() > 1e-3, "the originals must give something to compare"
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5


# ---------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize(
    ("num_outputs", "name", "num_frames"),
    [
        (487, "IG-65M, 8 frames", 8),
        (359, "IG-65M, 32 frames", 32),
        (400, "IG-65M, fine-tuned on Kinetics-400", None),
    ],
)
def test_ig65m(tmp_path: Path, num_outputs: int, name: str, num_frames: int | None) -> None:
    original = vmz([3, 4, 6, 3], num_outputs)
    torch.save(original.state_dict(), tmp_path / "r2plus1d_34.pth")
    network, found = imported("r2plus1d_34_ig65m", tmp_path / "r2plus1d_34.pth")
    assert_same(network, original, CLIP)
    assert network.feature_dim == 512
    assert found.keys.unexpected == ["fc.bias", "fc.weight"]
    assert found.keys.missing == []
    assert (found.source.layout, found.source.name, found.source.known_by) == ("torchvision", name, "outputs")
    assert found.source.trained_with.get("num_frames") == num_frames
    assert found.source.trained_with["mean"] == [0.43216, 0.394666, 0.37645]
    assert found.self_test.max_abs_difference is not None
    assert found.self_test.max_abs_difference < 1e-5 * (found.self_test.largest_output or 0)


def test_eps_and_momentum_are_those_of_caffe2_in_the_sense_of_torch() -> None:
    for arch in ("r2plus1d_34_ig65m", "r2plus1d_18_xdc"):
        with torch.device("meta"):
            trunk, _ = ARCHITECTURES[arch].build()
        norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm3d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
        widths = [trunk.get_submodule(f"layer{n}.0.conv2.0.0").out_channels for n in (1, 2, 3, 4)]
        assert widths == [144, 288, 576, 1152]


def test_plain_r2plus1d_34(tmp_path: Path) -> None:
    original = lively(video_resnet([3, 4, 6, 3], 400))
    torch.save({"model": original.state_dict()}, tmp_path / "plain.pth")
    network, found = imported("r2plus1d_34", tmp_path / "plain.pth")
    assert_same(network, original, CLIP)
    assert found.source.name is None


def test_xdc(tmp_path: Path) -> None:
    """Its files have no head."""
    original = vmz([2, 2, 2, 2], 400)
    state = {name: tensor for name, tensor in original.state_dict().items() if not name.startswith("fc.")}
    torch.save(state, tmp_path / "xdc.pth")
    network, found = imported("r2plus1d_18_xdc", tmp_path / "xdc.pth")
    assert_same(network, original, CLIP)
    assert found.keys.unexpected == []


def test_torchvisions_r2plus1d_18(tmp_path: Path) -> None:
    torch.manual_seed(2)
    original = lively(r2plus1d_18())
    save_file(original.state_dict(), tmp_path / "r2plus1d_18.safetensors")
    network, found = imported("r2plus1d_18", tmp_path / "r2plus1d_18.safetensors")
    assert_same(network, original, CLIP)
    assert found.self_test.skipped is None


# ---------------------------------------------------------------------------------------------- pictures


def test_a_vissl_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    original = lively(models.resnet50())
    trunk = {f"_feature_blocks.{k}": v for k, v in original.state_dict().items() if not k.startswith("fc.")}
    head = {"0.clf.0.weight": torch.zeros(7, 2048), "0.clf.0.bias": torch.zeros(7)}
    model = {"model": {"trunk": trunk, "heads": head}, "meters": {}}
    checkpoint = {"phase_idx": 3, "classy_state_dict": {"base_model": model, "optimizer": {"lr": 0.1}}}
    torch.save(checkpoint, tmp_path / "model_final.torch")
    network, found = imported("resnet50", tmp_path / "model_final.torch")
    assert_same(network, original, PICTURE)
    assert found.keys.mapped["trunk._feature_blocks.conv1.weight"] == "conv1.weight"
    assert found.keys.unexpected == ["heads.0.clf.0.bias", "heads.0.clf.0.weight"]
    assert (found.source.layout, found.source.name, found.source.known_by) == ("VISSL", "VISSL ResNet-50", "layout")
    assert found.source.trained_with == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("prefix", ["base_model.model.trunk._feature_blocks.", "_feature_blocks.", "module.encoder_q."])
def test_flat_names_with_prefixes(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(3)
    original = lively(models.resnet18())
    state = {f"{prefix}{name}": tensor for name, tensor in original.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "flat.pth")
    network, _ = imported("resnet18", tmp_path / "flat.pth")
    assert_same(network, original, PICTURE)


def test_a_checkpoint_that_also_holds_objects_is_read_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What training programs keep beside a network: arguments, NumPy's scalars, paths, dictionaries of their own."""
    original = lively(models.resnet18())
    path = tmp_path / "checkpoint.pth"
    objects = {"args": argparse.Namespace(lr=0.1), "loss": np.float64(1.5), "file": Path("x")}
    objects |= {"counts": collections.defaultdict(int, a=1), "array": np.zeros(3)}
    torch.save({"state_dict": original.state_dict(), **objects}, path)
    with caplog.at_level(logging.INFO, "cfvid"):
        network, found = imported("resnet18", path)
    assert_same(network, original, PICTURE)
    assert {"argparse.Namespace", "collections.defaultdict", "numpy.dtype"} <= set(found.left_out)
    assert "objects besides tensors were left out" in caplog.text


def test_timms_resnets_have_torchvisions_names(tmp_path: Path) -> None:
    """A flat .safetensors without counters in half precision, as the Hub has them."""
    torch.manual_seed(4)
    original = lively(models.resnet34().half().float())
    state = {name: t.half() for name, t in original.state_dict().items() if not name.endswith("num_batches_tracked")}
    original.load_state_dict(state, strict=False)
    save_file(state, tmp_path / "model.safetensors")
    network, found = imported("resnet34", tmp_path / "model.safetensors")
    assert_same(network, original, PICTURE)
    assert found.keys.missing == []


# ---------------------------------------------------------------------------------------------- what does not fit


def refusal(arch: str, state: dict[str, torch.Tensor], tmp_path: Path) -> WeightsError:
    torch.save(state, tmp_path / "weights.pth")
    network = build_network(arch, num_classes=1, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_foreign(tmp_path / "weights.pth", network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    return caught.value


@pytest.mark.parametrize(
    ("make", "configured", "right"),
    [
        (lambda: vmz([3, 4, 6, 3], 487), "r2plus1d_34", "r2plus1d_34_ig65m"),
        (lambda: vmz([2, 2, 2, 2], 4), "r2plus1d_18", "r2plus1d_18_xdc"),
        (lambda: video_resnet([2, 2, 2, 2], 4), "r2plus1d_18_xdc", "r2plus1d_18"),
        # All that the smaller network has is there, in the right shapes.
        (lambda: video_resnet([3, 4, 6, 3], 4), "r2plus1d_18", "r2plus1d_34"),
        (models.resnet34, "resnet18", "resnet34"),
        (models.resnet18, "resnet50", "resnet18"),
    ],
)
def test_the_architecture_that_fits_is_named(
    make: Callable[[], nn.Module], configured: str, right: str, tmp_path: Path
) -> None:
    error = refusal(configured, make().state_dict(), tmp_path)
    assert error.fix == f"Set pretrain.arch to {right}."
    assert right in str(error.why)


def test_a_network_for_pictures_among_those_for_clips(tmp_path: Path) -> None:
    error = refusal("r2plus1d_18", models.resnet18().state_dict(), tmp_path)
    assert error.fix == "Set pretrain.arch to resnet18, and modality to one with 2D networks."


def deep_stem() -> dict[str, torch.Tensor]:
    """timm's resnet50d."""
    state = {name: t for name, t in models.resnet50().state_dict().items() if name != "conv1.weight"}
    state |= {"conv1.0.weight": torch.zeros(32, 3, 3, 3), "conv1.3.weight": torch.zeros(32, 32, 3, 3)}
    return state | {"conv1.1.weight": torch.zeros(32), "conv1.6.weight": torch.zeros(64, 32, 3, 3)}


def squeezed() -> dict[str, torch.Tensor]:
    """timm's seresnet50: a ResNet-50 and more inside its blocks."""
    return models.resnet50().state_dict() | {"layer1.0.se.fc1.weight": torch.zeros(16, 256, 1, 1)}


def two_networks() -> dict[str, torch.Tensor]:
    """One under two names of the same layers: with and without a wrapper."""
    state = models.resnet18().state_dict()
    return state | {name.replace(".", ".module.", 1): t + 1 for name, t in state.items()}


@pytest.mark.parametrize(
    ("arch", "state", "cause"),
    [
        ("resnet50", deep_stem, "resnet50d"),
        ("resnet50", squeezed, "layer1.0.se.fc1.weight"),
        ("resnet50", lambda: models.resnext50_32x4d().state_dict(), "is (128, 64, 1, 1), the network has"),
        ("resnet18", two_networks, "conv1.weight could be conv1.weight or conv1.module.weight"),
        ("resnet18", lambda: {"a": torch.zeros(1)}, "none of its keys"),
        ("resnet18", lambda: {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "keys of the trunk are missing"),
    ],
)
def test_what_fits_nothing_is_refused_with_the_cause(
    arch: str, state: Callable[[], dict[str, torch.Tensor]], cause: str, tmp_path: Path
) -> None:
    assert cause in str(refusal(arch, state(), tmp_path).why)


# ---------------------------------------------------------------------------------------------- the self-test


def test_a_trunk_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key and shape fits, and the eps is another one: what a plain builder would do to these weights."""
    original = vmz([2, 2, 2, 2], 4)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    network = build_network("r2plus1d_18_xdc", num_classes=1, seed=0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-5
    with pytest.raises(WeightsError, match="does not compute what torchvision's does"):
        load_foreign(tmp_path / "weights.pth", network)
    monkeypatch.setitem(references.REFERENCES, "r2plus1d_18_xdc", lambda: video_resnet([2, 2, 2, 2], 4))
    with pytest.raises(RuntimeError, match="size mismatch"):  # the reference is loaded strictly
        imported("r2plus1d_18_xdc", tmp_path / "weights.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = models.resnet18().state_dict()
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="not finite"):
        imported("resnet18", tmp_path / "weights.pth")


def test_without_a_reference_the_reason_is_recorded(tmp_path: Path) -> None:
    trunk = build_network("resnet10_tiny", num_classes=1, seed=3).trunk
    torch.save(trunk.state_dict(), tmp_path / "weights.pth")
    _, found = imported("resnet10_tiny", tmp_path / "weights.pth")
    assert found.self_test.skipped == "torchvision has no resnet10_tiny"
    assert found.self_test.max_abs_difference is None


def test_an_import_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    network = build_network("resnet18", num_classes=1, seed=0)
    before = torch.get_rng_state()
    load_foreign(tmp_path / "weights.pth", network)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training


# ---------------------------------------------------------------------------------------------- known sources


def test_the_table_agrees_with_torchvisions() -> None:
    """Digests and normalisation of every file that torchvision publishes for these architectures."""
    published = [*R2Plus1D_18_Weights]
    for arch in ("resnet18", "resnet34", "resnet50", "resnet101"):
        published += models.get_model_weights(arch)
    for weights in published:
        digest = Path(weights.url).stem.rpartition("-")[2]
        arch = weights.url.rpartition("/")[2].rpartition("-")[0]
        found = recognise(arch=arch, digest=digest, layout="torchvision", num_outputs=None)
        assert found.known_by == "SHA-256", weights
        transforms = weights.transforms()
        assert found.trained_with["mean"] == list(transforms.mean)
        assert found.trained_with["std"] == list(transforms.std)
    assert found.name is not None
    for known in KNOWN_SOURCES.values():
        assert known.arch in ARCHITECTURES
        assert known.files or known.num_outputs or known.layout
        assert all(len(digits) == 8 for digits in known.files)


def test_a_digest_is_stronger_than_other_signs() -> None:
    found = recognise(arch="r2plus1d_34_ig65m", digest="ade133f1" + "0" * 56, layout="torchvision", num_outputs=487)
    assert (found.name, found.known_by) == ("IG-65M, fine-tuned on Kinetics-400, 32 frames", "SHA-256")
    elsewhere = recognise(arch="r2plus1d_18", digest="ade133f1", layout="torchvision", num_outputs=487)
    assert elsewhere.name is None


def test_differences_are_in_words_and_rounding_is_none() -> None:
    options: dict[str, Any] = {"mean": (0.43216, 0.39467, 0.37645), "num_frames": 8, "crop_size": 32}
    trained = {"mean": [0.43216, 0.394666, 0.37645], "num_frames": 32, "frame_rate_hz": 15.0}
    assert input_differences(trained, options) == ["num_frames: trained with 32, the run has 8"]


# ---------------------------------------------------------------------------------------------- the stage


def test_the_stage_records_the_source_and_warns_of_another_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ours.pth"
    torch.save(vmz([3, 4, 6, 3], 359).state_dict(), path)
    values = tiny_values(tmp_path, pretrain__weights=str(path), pretrain__arch="r2plus1d_34_ig65m")
    values |= {"modality": "video", "input": {"num_frames": 8, "frame_rate_hz": 15, "crop_size": 32, "resize": 32}}
    values["input"]["mean"] = [0.5, 0.5, 0.5]
    with caplog.at_level(logging.WARNING, "cfvid"):
        folder = pretrain(Run(configure(values), tmp_path / "run"))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("(IG-65M, 32 frames, by its outputs): num_frames: trained with 32" in text for text in warned)
    assert any("mean: trained with" in text for text in warned)
    assert len(warned) == 2
    _, saved = load_network(folder)
    assert saved.input["num_frames"] == 8, "nothing is changed silently"
    assert saved.made_by["source"]["name"] == "IG-65M, 32 frames"
    assert saved.made_by["source"]["trained_with"]["num_frames"] == 32
    told = json.loads((tmp_path / "run" / "pretrain" / "import.json").read_text())
    assert told["source"]["known_by"] == "outputs"
    assert told["self_test"]["skipped"] is None
    assert told["self_test"]["max_abs_difference"] <= 1e-4 * told["self_test"]["largest_output"]
    assert len(digest_file(folder / "model.safetensors")) == 64


def test_a_brought_cfvid_network_keeps_its_source_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = write_pictures(tmp_path / "pictures", classes=2, train=2, val=2)
    torch.save(lively(models.resnet18()).state_dict(), tmp_path / "weights.pth")
    common = {"pretrain__arch": "resnet18", "pretrain__weights": str(tmp_path / "weights.pth")}
    first = pretrain(Run(tiny_config(pictures, **common), tmp_path / "a"))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    caplog.clear()
    common["pretrain__weights"] = str(first)
    other = {"crop_size": 16, "resize": 16, "std": [0.3, 0.3, 0.3]}
    second = pretrain(Run(tiny_config(pictures, **common, input=other), tmp_path / "b"))
    warned = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record.getMessage().partition(": ")[2] for record in warned] == [
        "std: trained with [0.229, 0.224, 0.225], the run has [0.3, 0.3, 0.3]"
    ]
    assert load_network(second)[1].made_by["source"]["file"] == "weights.pth"
