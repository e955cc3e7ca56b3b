"""Every architecture builds, is reproducible by its seed, and gives features of the dimension it says."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.video import r2plus1d_18

from cfvid.errors import ConfigError
from cfvid.models.zoo import ARCHITECTURES, LayerFeatures, build_network


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


def test_an_unknown_layer_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="layer4"):
        LayerFeatures(build_network("resnet10_thin", num_classes=2, seed=0).trunk, ["layer9"])
