"""Training never meets the kernel of oneDNN that damages memory, whatever the network, its batches and threads."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.steps import NARROW

from cfvid.models.onednn import avoid_narrow_strides
from cfvid.models.zoo import ARCHITECTURES, build_network

STEPS = Path(__file__).parent.parent / "support" / "steps.py"
QUICK = [name for name in ARCHITECTURES if name.endswith(("_mini", "_tiny", "_thin"))]


def failed(*names: str) -> dict[str, int]:
    """The cases that did not end well, and the exit codes of their processes."""
    command = [sys.executable, str(STEPS), *names]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    codes: dict[str, int] = json.loads(ended.stdout)
    assert len(codes) >= 4 * max(1, len(names))
    return {case: code for case, code in codes.items() if code}


def test_small_architectures_make_steps() -> None:
    """Point 9: channels-last, a strided 1x1 convolution of 8 channels (resnet10_mini), batches of 2, 3, 13 and 64."""
    assert failed(*QUICK) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_large_architectures_make_steps() -> None:
    """Point 9: all others, one step at each of the batches."""
    assert failed(*(name for name in ARCHITECTURES if name not in QUICK)) == {}


def test_a_network_of_a_users_own_makes_steps() -> None:
    """Point 9: whatever is given to the training loop; strides may differ by dimension."""
    assert failed() == {}


@pytest.mark.parametrize("dims", NARROW)
def test_what_is_computed_another_way_is_the_same(dims: int) -> None:
    """Forward and backward, to rounding; and once is enough however often it is asked for."""
    plain = NARROW[dims]().double()
    changed = copy.deepcopy(plain)
    for _ in range(2):
        avoid_narrow_strides(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.randn(2, 3, *[7, 8, 9][:dims], dtype=torch.double)
    outputs = [network(inputs) for network in (plain, changed)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("name", ["resnet10_tiny", "resnet18", "r2plus1d_10_thin"])
def test_networks_without_such_layers_stay_as_they_are(name: str) -> None:
    network = build_network(name, num_classes=2, seed=0)
    assert not any(module._forward_pre_hooks for module in network.modules())
