"""A training of several processes is that of one over the same batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.team import Team
from support.team_jobs import plain_training
from support.tiny import tiny_values, write_pictures

from cfvid import ranks
from cfvid.training.batches import own_places
from cfvid.training.metrics import read_metrics


def _losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if line["event"] == "step"]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 2}, {"clip_grad_norm": 0.05}])
def test_the_loss_curve_is_that_of_one_process(team: Team, tmp_path: Path, size: int, options: dict) -> None:
    # 30 samples in batches of 10, of which three ranks have unequal parts. One sample cannot be read. Of two
    # accumulated batches an epoch has one and a half.
    data = write_pictures(tmp_path / "pictures", train=10)
    (data / "train" / "class1" / "003.png").write_bytes(b"not a picture")
    values = tiny_values(data, data__skip_budget=0.1)
    _compare(team, tmp_path, values, size=size, steps=9, batch_size=10, **options)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 3}])
def test_a_rank_without_a_share_of_a_batch_takes_part(team: Team, tmp_path: Path, options: dict) -> None:
    # 30 samples in six batches of 4 and two of 3, which are not enough for two ranks.
    values = tiny_values(write_pictures(tmp_path / "pictures", train=10))
    _compare(team, tmp_path, values, size=2, steps=24, batch_size=4, **options)


def _compare(team: Team, tmp_path: Path, values: dict, *, size: int, steps: int, **options: float) -> None:
    values["pretrain"]["training"] |= {"epochs": 3, **options}
    (tmp_path / "config.json").write_text(json.dumps(values))
    plain_training(str(tmp_path / "config.json"), str(tmp_path / "one"))
    assert team.run("plain_training", tmp_path / "config.json", tmp_path / "many", size=size) == [0] * size
    expected = _losses(tmp_path / "one")
    assert len(expected) == steps
    np.testing.assert_allclose(_losses(tmp_path / "many"), expected, rtol=1e-4)
    weights = load_file(tmp_path / "one" / "weights0.safetensors")
    for rank in range(size):
        for name, values_of_rank in load_file(tmp_path / "many" / f"weights{rank}.safetensors").items():
            np.testing.assert_allclose(values_of_rank, weights[name], rtol=1e-3, atol=1e-5)


def test_logits_in_parts(team: Team, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_values(write_pictures(tmp_path / "pictures"))))
    where = tmp_path / "config.json"
    assert team.run("stages", where, tmp_path / "whole", ["pretrain"], size=2) == [0, 0]
    assert team.run("stages_in_parts", where, tmp_path / "parts", ["pretrain"], 8, size=2) == [0, 0]
    losses = _losses(tmp_path / "whole" / "pretrain")
    assert len(losses) == 6
    np.testing.assert_allclose(_losses(tmp_path / "parts" / "pretrain"), losses, rtol=1e-3)


def test_a_batch_too_small_to_be_divided_is_refused(team: Team, tmp_path: Path) -> None:
    values = tiny_values(write_pictures(tmp_path / "pictures"))
    values["pretrain"]["training"]["batch_size"] = 5
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert team.run("plain_training", tmp_path / "config.json", tmp_path / "run", size=3) == [2, 2, 2]


def test_every_sample_of_a_batch_is_one_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    for num in range(2, 20):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
            parts.append(list(own_places(100, num)))
        assert [place for part in parts for place in part] == list(range(100, 100 + num))
        assert all(len(part) != 1 for part in parts)
