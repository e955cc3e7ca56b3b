"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Tiny networks gain nothing from threads, and lose much when tests share a machine; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# No deadline: the machine may be busy. Derandomized: a failure is there on the next run too.
settings.register_profile("cfvid", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("cfvid")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and videos beside the checkout, where they are there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embedded data sets are generated once per test session, unless CFVID_CACHE says where they are."""
    return Path(os.environ.setdefault("CFVID_CACHE", str(tmp_path_factory.mktemp("cache"))))
