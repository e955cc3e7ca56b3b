"""Code in a process in which some packages are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run_without(*absent: str, code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code where importing these top modules fails as it does when they are not installed."""
    repository = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(absent=absent) + code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": repository, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
