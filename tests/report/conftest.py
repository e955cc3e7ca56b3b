"""Runs that the report's tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.synthetic_run import write_run
from support.tiny import tiny_config, write_pictures

from cfvid.config import RunConfig
from cfvid.stages import Run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def config(pictures: Path) -> RunConfig:
    return tiny_config(pictures, report={"num_sheet_clusters": 3, "num_sheet_samples": 4})


@pytest.fixture(scope="session")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run, not to be changed; a new Run object, as a later command has it."""
    return Run(config, write_run(config, tmp_path_factory.mktemp("finished") / "run").folder)


@pytest.fixture
def run(config: RunConfig, finished: Run, tmp_path: Path) -> Run:
    """A whole run of the test's own."""
    return Run(config, Path(shutil.copytree(finished.folder, tmp_path / "run")))
