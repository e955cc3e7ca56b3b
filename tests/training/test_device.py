"""What a run's device is set up to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_config

from cfvid.clustering import device_search
from cfvid.training.device import build_accelerator

BACKENDS: Any = torch.backends
OPERATIONS = {
    "convolutions on a GPU": BACKENDS.cudnn.conv,
    "matrices on a GPU": BACKENDS.cuda.matmul,
    "convolutions on a CPU": BACKENDS.mkldnn.conv,
    "matrices on a CPU": BACKENDS.mkldnn.matmul,
}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    general = BACKENDS.fp32_precision
    yield
    BACKENDS.fp32_precision = general
    build_accelerator(tiny_config(Path("pictures")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("before", ["default", "legacy", "new"])
def test_single_precision_is_single_precision(before: str, precision: str) -> None:
    """Point 13: with `precision: fp32` convolutions on a GPU were computed in TF32, torch's default."""
    for operations in OPERATIONS.values():
        operations.fp32_precision = "none"
    if before == "legacy":
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
    elif before == "new":
        BACKENDS.fp32_precision = "tf32"
        BACKENDS.cudnn.conv.fp32_precision = "tf32"
    build_accelerator(tiny_config(Path("pictures"), precision=precision))
    assert {name: operations.fp32_precision for name, operations in OPERATIONS.items()} == dict.fromkeys(
        OPERATIONS, "ieee"
    )
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_searching_for_centroids_has_its_own_setting_meanwhile() -> None:
    build_accelerator(tiny_config(Path("pictures")))
    with device_search._tensor_cores():
        assert torch.backends.cuda.matmul.allow_tf32
        assert BACKENDS.cudnn.conv.fp32_precision == "ieee"
    assert not torch.backends.cuda.matmul.allow_tf32
