"""Runs that share the work of their stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.stages import Run, cluster, extract, pretrain


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_equal_work_is_done_once_and_other_work_apart(pictures: Path, tmp_path: Path) -> None:
    shared = tmp_path / "stages"
    for name, num_clusters in (("a", 3), ("b", 4)):
        config = tiny_config(pictures, pretrain__training__epochs=1, cluster__num_clusters=num_clusters)
        run = Run(config, tmp_path / name, shared=shared)
        for stage in (pretrain, extract, cluster):
            stage(run)
    a, b = tmp_path / "a", tmp_path / "b"
    assert (a / "pretrain").resolve() == (b / "pretrain").resolve()
    assert (a / "extract").resolve() == (b / "extract").resolve()
    assert (a / "cluster").resolve() != (b / "cluster").resolve()
    counts = [json.loads((run / "cluster" / "record.json").read_text())["facts"]["num_clusters"] for run in (a, b)]
    assert counts == [3, 4]
    assert sorted(path.name for path in shared.iterdir()) == ["cluster", "extract", "pretrain"]


def test_a_changed_setting_leads_to_other_work_and_the_old_stays(pictures: Path, tmp_path: Path) -> None:
    for epochs in (1, 2, 1):
        config = tiny_config(pictures, pretrain__training__epochs=epochs)
        pretrain(Run(config, tmp_path / "run", shared=tmp_path / "stages"))
    assert len(list((tmp_path / "stages" / "pretrain").iterdir())) == 2
    link = tmp_path / "run" / "pretrain"
    assert link.is_symlink()
    assert json.loads((link / "inputs.json").read_text())["pretrain"]["training"]["epochs"] == 1
