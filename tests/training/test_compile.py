"""Compiled networks: the same numbers, the same names, and one clear error without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny_config, write_pictures
from torch import nn

from cfvid.features import FeatureStore
from cfvid.pipeline import run_stages
from cfvid.training import device

STAGES = ["pretrain", "extract"]


@pytest.mark.parametrize("layer", [None, "layer3"])
def test_what_is_traced_gives_what_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str | None) -> None:
    """Traced, hooks and smaller last batches included, and run as it is: the compiler itself takes minutes."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self) or _traced(self))
    pictures = write_pictures(tmp_path / "pictures")
    for name, wanted in (("eager", False), ("traced", True)):
        config = tiny_config(pictures, compile=wanted, extract__layer=layer)
        run_stages(config, tmp_path / name, stages=STAGES)
    eager, traced = (FeatureStore(tmp_path / name / "extract") for name in ("eager", "traced"))
    for (ids, expected), (same, found) in zip(eager.shards(), traced.shards(), strict=True):
        assert ids == same
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)
    # The first is the check before any work.
    assert [type(module).__name__ for module in compiled] == ["Sequential", "Network", "LayerFeatures"]
    assert traced.record.inputs["compile"] is True
    assert "compile" not in eager.record.inputs


_compile = nn.Module.compile


def _traced(module: nn.Module) -> None:
    _compile(module, backend="eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_check_passes_where_there_is_a_compiler() -> None:
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    device.check_compiler(torch.device("cpu"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before


@pytest.mark.slow
def test_without_a_compiler_there_is_one_error_before_any_work(tmp_path: Path) -> None:
    without = {"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "cfvid", "train", "--modality", "image", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--compile", "true", "--runtime.device", "cpu"],
        env={**os.environ, **without},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "torch.compile does not work" in done.stderr
    assert "set compile: false" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "pretrain").exists()
