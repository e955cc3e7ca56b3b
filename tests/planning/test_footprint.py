"""Memory is counted on shapes, and is what the layers keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny import SIDE, tiny_config, write_pictures
from torch import nn

from cfvid.planning.footprint import Footprint, footprint_of
from cfvid.planning.stages import works_of
from cfvid.planning.work import Pass, Training
from cfvid.stages import Run

PIXELS, HIDDEN, CLASSES = 3 * SIDE * SIDE, 10, 3


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pass:
    root = tmp_path_factory.mktemp("data")
    [work] = works_of(Run(tiny_config(write_pictures(root)), root / "run"), ["pretrain"])
    return replace(work.passes[0], build=perceptron)


def test_training_keeps_inputs_and_activations(trained: Pass) -> None:
    weights = 4 * ((PIXELS + 1) * HIDDEN + (HIDDEN + 1) * CLASSES)
    found = footprint_of(trained)
    assert found == Footprint(3 * weights, 4 * (PIXELS + HIDDEN))  # weights, gradients, momentum
    assert trained.training is not None
    adamw = Training(trained.training.config.model_copy(update={"optimizer": "adamw"}))
    assert footprint_of(replace(trained, training=adamw)).fixed == 4 * weights
    frozen = Training(trained.training.config, {"1": 0.0})
    head = 4 * (HIDDEN + 1) * CLASSES
    assert footprint_of(replace(trained, training=frozen)).fixed == weights + 2 * head


def test_looking_takes_the_largest_layer(trained: Pass) -> None:
    looked = footprint_of(replace(trained, training=None, objective=None))
    assert looked.per_sample == 4 * 2 * PIXELS  # what is flattened, before and after
    assert looked.of_batch(7, precision="fp32") == looked.fixed + 7 * looked.per_sample
    assert looked.of_batch(8, precision="bf16") == looked.fixed + 4 * looked.per_sample


def test_nothing_is_computed(trained: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: devices.add(x.device.type) or x @ self.weight.T)
    footprint_of(trained)
    assert devices == {"meta"}
    assert torch.get_default_device().type == "cpu"
