"""faiss, with an OpenBLAS that knows the processor.

That of faiss' wheels (0.3.15) takes newer Intel processors for ones without AVX; told what they have, it multiplies
matrices about four times as fast. It can only be told while it is loaded.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy  # noqa: F401  (has an OpenBLAS of its own, which needs no telling)

_VARIABLE = "OPENBLAS_CORETYPE"
_CORES = {"avx512f": "SKYLAKEX", "avx2": "HASWELL"}
"""The best core that each instruction set allows, best first."""


def core_of(cpuinfo: str) -> str | None:
    """What to tell OpenBLAS of an Intel processor, from the text of /proc/cpuinfo; None for other processors."""
    if "GenuineIntel" not in cpuinfo:
        return None
    flags = set(cpuinfo.partition("\nflags")[2].partition("\n")[0].split())
    return next((core for flag, core in _CORES.items() if flag in flags), None)


def _core() -> str | None:
    path = Path("/proc/cpuinfo")
    is_known = _VARIABLE in os.environ or platform.machine() != "x86_64" or not path.is_file()
    return None if is_known else core_of(path.read_text(errors="replace"))


if (_chosen := _core()) is not None:
    os.environ[_VARIABLE] = _chosen
import faiss  # noqa: E402

if _chosen is not None:
    del os.environ[_VARIABLE]

__all__ = ["faiss"]
