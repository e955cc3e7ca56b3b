"""Several processes, started once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.team import Team


@pytest.fixture(scope="session")
def team() -> Iterator[Team]:
    server = Team()
    yield server
    server.close()
