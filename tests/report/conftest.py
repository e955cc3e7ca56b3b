"""Runs that the report's tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic_run import write_run
from support.tiny import tiny_config, write_pictures

from cfvid.config import RunConfig
from cfvid.stages import Run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def config(pictures: Path) -> RunConfig:
    return tiny_config(pictures, report={"num_sheet_clusters": 3, "num_sheet_samples": 4})


@pytest.fixture
def run(config: RunConfig, tmp_path: Path) -> Run:
    """A whole run; a new Run object, as a later command has it."""
    return Run(config, write_run(config, tmp_path / "run").folder)
