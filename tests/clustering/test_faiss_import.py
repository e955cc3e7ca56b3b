"""What faiss' OpenBLAS is told of the processor, and that it listens."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cfvid.faiss_import import core_of

CPUINFO = "processor\t: 0\nvendor_id\t: {}\nflags\t\t: fpu sse2 {} lm\nbugs\t\t:\n"
HERE = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
TOLD = """
import os
from cfvid.faiss_import import faiss
from threadpoolctl import threadpool_info
assert "OPENBLAS_CORETYPE" not in os.environ
blas = [one for one in threadpool_info() if one["internal_api"] == "openblas" and "faiss" in one["filepath"]]
print([one["architecture"] for one in blas])
"""


@pytest.mark.parametrize(
    ("vendor", "flags", "core"),
    [
        ("GenuineIntel", "avx avx2 avx512f", "SKYLAKEX"),
        ("GenuineIntel", "avx avx2", "HASWELL"),
        ("GenuineIntel", "avx", None),
        ("AuthenticAMD", "avx avx2 avx512f", None),
    ],
)
def test_a_core_for_each_instruction_set_of_intels(vendor: str, flags: str, core: str | None) -> None:
    assert core_of(CPUINFO.format(vendor, flags)) == core


def test_no_cpuinfo_is_no_core() -> None:
    assert core_of("") is None


@pytest.mark.skipif(core_of(HERE) is None, reason="only Intel processors with AVX2 are told of")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there")
def test_the_openblas_of_faiss_multiplies_with_what_there_is() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run([sys.executable, "-c", TOLD], env=plain, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("['SkylakeX']", "['Haswell']")
