"""A run small enough for a test: generated pictures of a few pixels, a real network, seconds on one core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cfvid.config import RunConfig, load_config
from cfvid.modalities import MODALITIES
from cfvid.models.zoo import ARCHITECTURES
from cfvid.yaml_layers import Layer, parse_yaml

SIDE = 16
DEVICE = os.environ.get("CFVID_TEST_DEVICE", "cpu")
"""What tests compute on: the same everywhere, unless asked for."""
HUES = [[0], [1], [2], [0, 1], [1, 2], [0, 2]]
"""The bright channels of each class."""


def write_pictures(root: Path, *, classes: int = 3, train: int = 8, val: int = 4, seed: int = 0) -> Path:
    """Class folders of PNGs; each class (of six) has its own hue, so that it can be learnt in a few steps."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (SIDE, SIDE, 3))
                pixels[..., HUES[label]] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def tiny_values(data: Path, **overrides: Any) -> dict[str, Any]:
    """A small image configuration on class folders; overrides are dotted keys with `__` for the dots."""
    training = {"epochs": 2, "batch_size": 8, "lr": 0.02}
    values: dict[str, Any] = {
        "modality": "image",
        "input": {"crop_size": SIDE, "resize": SIDE},
        "data": {"pretrain": str(data), "targets": {"target": str(data)}},
        "pretrain": {"arch": "resnet10_thin", "training": dict(training)},
        "extract": {"shard_size": 5, "batch_size": 3},
        "cluster": {"num_clusters": 4, "iterations": 10},
        "retrain": {"training": dict(training)},
        "transfer": {"finetune": dict(training, epochs=1)},
        "runtime": {"device": DEVICE, "num_workers": 0, "log_every_steps": 1},
    }
    for dotted, value in overrides.items():
        node = values
        *parents, last = dotted.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return values


def configure(values: dict[str, Any]) -> RunConfig:
    """Values as a validated configuration."""
    layer: Layer = parse_yaml(yaml.safe_dump(values), name="test")
    dims = {name: architecture.dims for name, architecture in ARCHITECTURES.items()}
    return load_config([layer], modalities=MODALITIES, architectures=dims)


def tiny_config(data: Path, **overrides: Any) -> RunConfig:
    """`tiny_values` as a validated configuration."""
    return configure(tiny_values(data, **overrides))
