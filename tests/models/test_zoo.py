"""Every architecture builds, is reproducible by its seed, and gives features of the dimension it says."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models.video import r2plus1d_18

from cfvid.errors import ConfigError
from cfvid.models.zoo import ARCHITECTURES, LayerFeatures, LayerOutputs, build_network, feature_dims


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward(name: str) -> None:
    network = build_network(name, num_classes=5, seed=1).eval()
    shape = (1, 3, 32, 32) if ARCHITECTURES[name].dims == 2 else (1, 3, 4, 32, 32)
    with torch.inference_mode():
        assert network.trunk(torch.randn(shape)).shape == (1, network.feature_dim)
        assert network(torch.randn(shape)).shape == (1, 5)


def test_weights_depend_on_the_seed_alone() -> None:
    first = build_network("resnet10_thin", num_classes=3, seed=4).state_dict()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = build_network("resnet10_thin", num_classes=3, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "building must not disturb the global generator"
    other = build_network("resnet10_thin", num_classes=3, seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["trunk.conv1.weight"], other["trunk.conv1.weight"])


def test_r2plus1d_18_has_torchvisions_parameters() -> None:
    ours = {name: t.shape for name, t in build_network("r2plus1d_18", num_classes=4, seed=0).trunk.state_dict().items()}
    theirs = {name: t.shape for name, t in r2plus1d_18().state_dict().items() if not name.startswith("fc.")}
    assert ours == theirs


def test_a_named_layer_is_averaged_over_space_and_time() -> None:
    network = build_network("r2plus1d_10_thin", num_classes=4, seed=0).eval()
    clips_NCTHW = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        x = network.trunk.layer2(network.trunk.layer1(network.trunk.stem(clips_NCTHW)))
        expected = x.mean(dim=(2, 3, 4))
        torch.testing.assert_close(LayerFeatures(network.trunk, ["layer2"])(clips_NCTHW), expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_gives_its_own_output(name: str) -> None:
    """Point 13: `bn1` gave the output of the ReLU that follows in place, `bn2` that of the sum with the shortcut."""
    trunk = build_network(name, num_classes=1, seed=0).trunk.eval()
    inputs = torch.randn((2, 3, 16, 16) if ARCHITECTURES[name].dims == 2 else (2, 3, 4, 16, 16))
    plain, expected = copy.deepcopy(trunk), {}
    for layer, module in plain.named_modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        # Sums with shortcuts have no flag: what they would change is taken before.
        module.register_forward_hook(lambda _m, _a, output, layer=layer: expected.update({layer: output.clone()}))
    with torch.inference_mode():
        expected[None] = plain(inputs)
        del expected[""]
        found = LayerOutputs(trunk, [*expected])(inputs)
    for layer, output in zip(expected, found, strict=True):
        torch.testing.assert_close(output, expected[layer], rtol=0, atol=0, msg=layer)


def test_an_unknown_layer_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="layer4"):
        LayerFeatures(build_network("resnet10_thin", num_classes=2, seed=0).trunk, ["layer9"])


def test_a_list_of_layers_has_no_output() -> None:
    """R(2+1)D-50 keeps all of its layers in `blocks`, which ended in a KeyError."""
    assert feature_dims("r2plus1d_50", ["blocks.1", None], torch.Size([1, 3, 4, 32, 32])) == [256, 2048]
    with pytest.raises(ConfigError, match=r"'blocks' has no output.*\n.*blocks\.0, blocks\.1"):
        feature_dims("r2plus1d_50", ["blocks"], torch.Size([1, 3, 4, 32, 32]))
    with pytest.raises(ConfigError, match=r"blocks\.0, blocks\.1"):
        feature_dims("r2plus1d_50", ["layer3"], torch.Size([1, 3, 4, 32, 32]))
