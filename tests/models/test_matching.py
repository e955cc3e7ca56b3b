"""The right architecture under any prefix or wrapper (point 16 of the faults of everybody's files).

It is found by its shapes; where two networks fit, one is to be chosen; averaged weights beside plain ones are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.video import r2plus1d_18

from cfvid.errors import WeightsError
from cfvid.models.foreign import Imported, load_foreign
from cfvid.models.foreign_network import CHOICE
from cfvid.models.layouts import describe
from cfvid.models.matching import Fit, fits, never_trained, plain_name, starts_of
from cfvid.models.zoo import Network, build_network

State = dict[str, torch.Tensor]


def state_of(seed: int = 0) -> State:
    """A ResNet-18 of its own numbers, without its head."""
    torch.manual_seed(seed)
    return {name: tensor for name, tensor in models.resnet18().state_dict().items() if not name.startswith("fc.")}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def numbered(state: State, numbers: dict[str, int]) -> State:
    """As an nn.Sequential of a ResNet's children names them."""
    parts = (name.partition(".") for name in state)
    return {f"{numbers[layer]}.{rest}": state[f"{layer}.{rest}"] for layer, _, rest in parts}


CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
WITHOUT_POOLING = {"conv1": 0, "bn1": 1, "layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6}


def imported(path: Path, value: object, arch: str = "resnet18", **options: str) -> tuple[Network, Imported]:
    torch.save(value, path)
    network = build_network(arch, num_classes=1, seed=9)
    return network, load_foreign(path, network, **options)


def assert_taken(network: Network, state: State) -> None:
    ours = network.trunk.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda s: {"teacher": under("backbone.", s)}, "teacher.backbone."),
        (lambda s: {"student": under("module.backbone.", s)}, "student.module.backbone."),
        (lambda s: {"state_dict": under("module.base_encoder.", s)}, "state_dict.module.base_encoder."),
        (lambda s: under("online_encoder.net.", s), "online_encoder.net."),
        (lambda s: under("net.", s), "net."),
        (lambda s: under("resnet.", s), "resnet."),
        (lambda s: under("feature_extractor.", s), "feature_extractor."),
        (lambda s: under("backbone.body.", s), "backbone.body."),
        (lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 0.1}}, "state_dict.model."),
        (lambda s: {"state_dict_ema": s}, "state_dict_ema."),
        (lambda s: {"model_ema": under("module.", s) | {"n_averaged": torch.tensor(3)}}, "model_ema.module."),
        (lambda s: under("_orig_mod.module.anything.", s), "_orig_mod.module.anything."),
        (lambda s: {"a": {"b": [{"c": s}]}}, "a.b.0.c."),
        (lambda s: ({"lr": 1}, s), "1."),
        (lambda s: under("backbone.", numbered(s, CHILDREN)), "backbone."),
        (lambda s: {"state_dict": under("f.", numbered(s, WITHOUT_POOLING))}, "state_dict.f."),
        (lambda s: numbered(s, CHILDREN) | {"9.weight": torch.zeros(7, 512), "9.bias": torch.zeros(7)}, ""),
    ],
)
def test_any_prefix_and_wrapper(tmp_path: Path, wrap: Callable[[State], object], prefix: str) -> None:
    state = state_of()
    network, found = imported(tmp_path / "w.pth", wrap(state))
    assert_taken(network, state)
    assert found.prefix == prefix
    assert found.other_networks == []
    assert found.keys.missing == []
    assert found.self_test.max_abs_difference == 0.0


def test_wrappers_inside_the_trunk_and_other_names_of_its_layers(tmp_path: Path) -> None:
    """torch.compile or FSDP of single layers; `shortcut` is what public CIFAR ResNets call torchvision's downsample."""
    state = state_of()
    inside = {name.replace("layer2.0.", "layer2._orig_mod.0.module."): t for name, t in state.items()}
    network, _ = imported(tmp_path / "w.pth", under("module.", inside))
    assert_taken(network, state)
    renamed = {name.replace("downsample", "shortcut"): t for name, t in state.items()}
    network, found = imported(tmp_path / "w.pth", renamed)
    assert_taken(network, state)
    assert found.keys.mapped["layer2.0.shortcut.0.weight"] == "layer2.0.downsample.0.weight"


def test_clips_in_an_nn_sequential(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = r2plus1d_18()
    wrapped = nn.Sequential(*list(model.children())[:-1])
    network, found = imported(tmp_path / "w.pth", under("encoder.", wrapped.state_dict()), "r2plus1d_18")
    assert found.prefix == "encoder."
    assert_taken(network, {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")})


# ---------------------------------------------------------------------------------------------- strictness


def test_a_numbered_network_with_more_inside_its_layers_is_refused(tmp_path: Path) -> None:
    deeper = {k: v for k, v in models.resnet34().state_dict().items() if not k.startswith("fc.")}
    with pytest.raises(WeightsError) as caught:
        imported(tmp_path / "w.pth", under("backbone.", numbered(deeper, CHILDREN)))
    assert caught.value.fix == "Set pretrain.arch to resnet34."
    extra = under("net.", state_of()) | {"net.layer1.0.se.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"more layers than the trunk \(layer1.0.se.weight\)"):
        imported(tmp_path / "w.pth", extra)


def test_tensors_that_no_network_computes_with_are_refused(tmp_path: Path) -> None:
    state = state_of() | {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3, dtype=torch.int8)}
    with pytest.raises(WeightsError, match="holds int8: the weights are quantised"):
        imported(tmp_path / "w.pth", state)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 3, 3, device="meta")
    with pytest.raises(WeightsError, match="holds no numbers"):
        imported(tmp_path / "w.pth", state)


# ---------------------------------------------------------------------------------------------- several networks


def refused(path: Path, value: object, **options: str) -> str:
    with pytest.raises(WeightsError) as caught:
        imported(path, value, **options)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "usual", "why"),
    [
        (("student.module.backbone.", "teacher.backbone."), "teacher.backbone", "DINO's authors evaluate the teacher"),
        (("module.base_encoder.", "module.momentum_encoder."), "module.base_encoder", "MoCo v3's authors"),
        (("online_encoder.net.", "target_encoder.net."), "online_encoder.net", "BYOL's authors"),
        (("backbone.", "backbone_momentum."), "backbone", "the file does not say"),
        (("", "other."), '""', "the file does not say"),
    ],
)
def test_of_two_networks_that_fit_one_is_to_be_chosen(
    tmp_path: Path, names: tuple[str, str], usual: str, why: str
) -> None:
    states = [state_of(1), state_of(2)]
    value = under(names[0], states[0]) | under(names[1], states[1])
    text = refused(tmp_path / "w.pth", value)
    assert "holds 2 networks that fit resnet18" in text
    assert f"{CHOICE}: {usual}, for example" in text
    assert why in text
    for name, other, state in zip(names, reversed(names), states, strict=True):
        network, found = imported(tmp_path / "w.pth", value, prefix=name.removesuffix("."))
        assert_taken(network, state)
        assert (found.prefix, found.other_networks) == (name, [other])


def test_a_choice_may_be_the_first_or_any_part_of_the_prefix(tmp_path: Path) -> None:
    states = [state_of(1), state_of(2)]
    value = {"state_dict": under("student.net.", states[0]) | under("teacher.net.", states[1])}
    for choice in ("teacher", "state_dict.teacher", "teacher.net", "teacher.net.", "state_dict.teacher.net"):
        network, _ = imported(tmp_path / "w.pth", value, prefix=choice)
        assert_taken(network, states[1])
    assert "holds 2 networks" in refused(tmp_path / "w.pth", value, prefix="net")
    text = refused(tmp_path / "w.pth", value, prefix="tutor")
    assert "no network that fits resnet18 under 'tutor'" in text
    assert "state_dict.student.net, state_dict.teacher.net" in text


def test_one_network_that_is_saved_twice_is_one(tmp_path: Path) -> None:
    state = state_of()
    network, found = imported(tmp_path / "w.pth", under("encoder.", state) | under("model.encoder.", state))
    assert_taken(network, state)
    assert found.other_networks == []


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("online_model", "ema_model"),
        ("net", "swa_model"),
        ("encoder_q", "encoder_k"),
    ],
)
def test_averaged_weights_beside_plain_ones_are_told_and_can_be_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plain: str, averaged: str
) -> None:
    states = [state_of(1), state_of(2)]
    value = {averaged: states[1], plain: states[0]}
    network, found = imported(tmp_path / "w.pth", value)
    assert_taken(network, states[0])
    assert (found.prefix, found.other_networks) == (f"{plain}.", [f"{averaged}."])
    [warned] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"averaged weights of this network (EMA) under {averaged}" in warned
    assert CHOICE in warned
    network, found = imported(tmp_path / "w.pth", value, prefix=averaged)
    assert_taken(network, states[1])
    assert found.other_networks == [f"{plain}."]


# ---------------------------------------------------------------------------------------------- parts


def test_names() -> None:
    assert plain_name("layer1._orig_mod.0.module.conv1.weight") == "layer1.0.conv1.weight"
    assert starts_of("a.b.") == ["a.b.", "a.", ""]
    assert starts_of("") == [""]
    trunk = state_of()
    [best, *_] = fits({"x": torch.zeros(1)}, trunk)
    assert isinstance(best, Fit)
    assert (best.is_whole, best.mapped, len(best.missing)) == (False, {}, 100)


def test_what_was_never_trained() -> None:
    state = state_of()
    assert never_trained(state)
    assert not never_trained(state | {"bn1.running_mean": torch.full((64,), 0.1)})
    assert not never_trained(state | {"bn1.running_var": torch.full((64,), 0.9)})
    assert not never_trained(state | {"bn1.num_batches_tracked": torch.tensor(1)})
    assert never_trained({name: t for name, t in state.items() if "num_batches" not in name})
    assert not never_trained({name: t for name, t in state.items() if "running" not in name}), "nothing can tell"


# ---------------------------------------------------------------------------------------------- other architectures


@pytest.mark.parametrize(
    ("make", "family", "outputs"),
    [
        (models.mobilenet_v2, "a MobileNetV2", 1000),
        (models.densenet121, "a DenseNet", 1000),
        (models.vgg11, "a VGG or AlexNet", 1000),
        (models.efficientnet_b0, "a MobileNetV3 or an EfficientNet of torchvision", 1000),
        (lambda: models.googlenet(init_weights=False), "GoogLeNet", 1000),
        (models.vit_b_32, "a vision transformer (ViT)", 1000),
        (models.swin_t, "a Swin transformer", 1000),
        (models.resnext50_32x4d, "a ResNet-50 of other widths", 1000),
        (models.video.r3d_18, "a 3D ResNet whose stem has a kernel of 3 x 7 x 7", 400),
    ],
)
def test_an_architecture_that_is_not_here_is_described(
    make: Callable[[], nn.Module], family: str, outputs: int
) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    text = describe(shapes)
    assert f"looks like {family}" in text
    assert f"{len(shapes):,} tensors" in text
    assert f"from {next(iter(shapes))} {tuple(next(iter(shapes.values())))}" in text
    assert f"{outputs:,} outputs" in text


PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "weights"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published weights are not here")
@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("resnet20.th", "a CIFAR ResNet of three stages, ResNet-20 from 16 channels on, with shortcuts that only pad"),
        ("resnet56.th", "a CIFAR ResNet of three stages, ResNet-56 from 16 channels on"),
        ("efficientnet-lite0-57934424.pth", "an EfficientNet"),
        ("mobilenetv2_imagenet.pt", "a MobileNetV2"),
    ],
)
@pytest.mark.parametrize("arch", ["resnet18_small", "r2plus1d_18"])
def test_published_files_of_other_architectures(name: str, looks: str, arch: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_foreign(PUBLISHED / name, build_network(arch, num_classes=1, seed=0))
    assert f"It looks like {looks}" in str(caught.value.why)
    assert "cfvid doctor" in str(caught.value.fix)
