"""A network that learnt from pieces of pictures has the statistics of whole ones when features are taken of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import SIDE, tiny_config, write_pictures
from torch import nn

from cfvid.artifacts import Record
from cfvid.errors import DataError
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.stages import Run
from cfvid.tasks import statistics

NUM = 24
SMALL = {"pretrain__arch": "resnet10_tiny", "pretrain__training__epochs": 1}
JIGSAW = {"pretrain__task": "jigsaw", "pretrain__num_permutations": 6, **SMALL}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def pretrained(pictures: Path, folder: Path, **options: Any) -> bytes:
    run_stages(tiny_config(pictures, **options), folder, stages=["pretrain"])
    return (folder / "pretrain" / "network" / "model.safetensors").read_bytes()


def test_jigsaw_ends_with_the_statistics_of_whole_pictures(pictures: Path, tmp_path: Path) -> None:
    """Point 13: they were those of tiles, a third as wide, which are never looked at again."""
    pretrained(pictures, tmp_path / "run", **JIGSAW, extract__batch_size=NUM)
    trunk = load_network(tmp_path / "run" / "pretrain" / "network")[0].trunk
    paths = sorted((pictures / "train").rglob("*.png"))
    whole = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2)
    assert whole.shape == (NUM, 3, SIDE, SIDE)
    modality = Run(tiny_config(pictures), tmp_path / "other").modality
    with torch.inference_mode():
        first = trunk.conv1(modality.normalize(whole)).movedim(1, 0).flatten(1)
    torch.testing.assert_close(trunk.bn1.running_mean, first.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(trunk.bn1.running_var, first.var(1), rtol=1e-3, atol=1e-4)
    layers = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(layer.num_batches_tracked) for layer in layers} == {1}


def test_it_is_recorded_where_it_was_done_and_only_there(pictures: Path, tmp_path: Path) -> None:
    pretrained(pictures, tmp_path / "jigsaw", **JIGSAW)
    record = Record.read(tmp_path / "jigsaw" / "pretrain", kind="pretrain")
    assert record.facts["num_statistics"] == NUM
    assert record.inputs["statistics"] == "of whole samples"
    told = json.loads((tmp_path / "jigsaw" / "pretrain" / "network" / "config.json").read_text())
    assert told["made_by"]["inputs"]["statistics"] == "of whole samples"
    pretrained(pictures, tmp_path / "rotation", pretrain__task="rotation", **SMALL)
    record = Record.read(tmp_path / "rotation" / "pretrain", kind="pretrain")
    assert "num_statistics" not in record.facts
    assert "statistics" not in record.inputs


def test_a_run_that_ended_before_it_goes_on_to_the_same_bytes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pretrained(pictures, tmp_path / "undisturbed", **JIGSAW)
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["cfvid.stages.pretrain"], "take_statistics", _fail)
        with pytest.raises(RuntimeError, match="power cut"):
            pretrained(pictures, tmp_path / "run", **JIGSAW)
    assert pretrained(pictures, tmp_path / "run", **JIGSAW) == expected


def _fail(*_arguments: Any, **_options: Any) -> int:
    raise RuntimeError("power cut")


def test_a_large_set_is_sampled(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic, of all classes, and in no order of theirs: within one class, statistics are others."""
    monkeypatch.setattr(statistics, "_MOST_SAMPLES", 12)
    samples = Run(tiny_config(pictures), tmp_path / "run").manifest("pretrain").split("train")
    chosen = statistics.samples_for_statistics(samples, seed=1)
    assert list(chosen.ids) == sorted(set(chosen.ids))
    assert len(chosen) == 12
    assert list(chosen.ids) == list(statistics.samples_for_statistics(samples, seed=1).ids)
    assert list(chosen.ids) != list(statistics.samples_for_statistics(samples, seed=2).ids)


def test_nothing_readable_is_told(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running statistics that were reset and never filled would look like those of an untrained network."""
    monkeypatch.setattr(statistics, "FEWEST", 99)
    with pytest.raises(DataError, match="no statistics"):
        pretrained(pictures, tmp_path / "run", **JIGSAW)
