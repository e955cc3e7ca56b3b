"""Linear heads: what they look at, that they share nothing, that the trunk stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from cfvid.errors import ConfigError
from cfvid.models.heads import LayerHeads, pool
from cfvid.models.zoo import build_network


@pytest.mark.parametrize(
    ("channels", "side", "values"),
    [(64, 112, 9216), (256, 56, 9216), (512, 28, 8192), (1024, 14, 9216), (2048, 7, 8192)],
)
def test_layers_of_a_resnet_50_have_about_nine_thousand_values(channels: int, side: int, values: int) -> None:
    pooled = pool(torch.randn(2, channels, side, side), 9216)
    assert pooled.shape[1:].numel() == values


def test_pooling_is_an_average() -> None:
    clip = torch.randn(2, 3, 5, 8, 8)
    torch.testing.assert_close(pool(clip, 12)[:, :, 0], clip[..., :4, :4].mean((2, 3, 4)))
    torch.testing.assert_close(pool(clip, 3)[..., 0], clip.mean((2, 3, 4)))
    assert pool(clip, 2).shape == (2, 3, 1)  # never fewer than the channels
    assert pool(torch.randn(2, 3, 2, 1), 9216).shape == (2, 3, 2)  # never larger than the layer
    assert pool(torch.randn(2, 7), 9216).shape == (2, 7, 1)


def _heads() -> LayerHeads:
    torch.manual_seed(0)
    trunk = build_network("resnet10_mini", num_classes=3, seed=0).trunk
    return LayerHeads(
        trunk, [None, "layer2", "layer3"], num_classes=4, num_values=256, shape=torch.Size((1, 3, 16, 16))
    )


def test_logits_are_those_of_each_sample_and_layer() -> None:
    network = _heads().eval()
    batch = torch.randn(5, 3, 16, 16)
    logits_NLC = network(batch).view(5, 3, 4)
    alone = network(batch[2:3]).view(1, 3, 4)
    torch.testing.assert_close(logits_NLC[2:3], alone)
    torch.testing.assert_close(logits_NLC[:, 0], network.heads[0](network.outputs.trunk(batch)[..., None]))


def test_the_gradient_of_a_head_is_that_of_its_own_training() -> None:
    network, batch = _heads().train(), torch.randn(6, 3, 16, 16)
    labels = torch.arange(6) % 4
    alone = copy.deepcopy(network)
    F.cross_entropy(network(batch), labels.repeat_interleave(3)).backward()
    F.cross_entropy(alone(batch).view(6, 3, 4)[:, 1], labels).backward()
    # `alone` has the three heads' factor of three, which the mean over layers takes back in `network`.
    torch.testing.assert_close(network.heads[1].linear.weight.grad, alone.heads[1].linear.weight.grad / 3)
    assert alone.heads[0].linear.weight.grad.abs().max() == 0


def test_the_trunk_is_never_trained() -> None:
    network = _heads()
    before = copy.deepcopy(network.outputs.trunk.state_dict())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network.train()
    for _ in range(3):
        F.cross_entropy(network(torch.randn(4, 3, 16, 16)), torch.arange(12) % 4).backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.outputs.trunk.state_dict().items())
    assert not network.outputs.trunk.training
    assert network.heads[0].norm.num_batches_tracked == 3


def test_a_layer_that_is_not_there() -> None:
    trunk = build_network("resnet10_mini", num_classes=3, seed=0).trunk
    with pytest.raises(ConfigError, match="layer9"):
        LayerHeads(trunk, ["layer9"], num_classes=4, num_values=256, shape=torch.Size((1, 3, 16, 16)))
