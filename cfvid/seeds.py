"""Named random streams: every random draw is keyed by (seed, names...), never by a shared global state.

A draw for sample "a" in epoch 3 is the same whether 0 or 8 workers decode, whether the run was resumed, and
whichever other samples were skipped before it.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit integer that depends on the seed and on every name, with its type and order."""
    # repr() keeps 1 and "1" apart, and the separator keeps ("ab", "c") and ("a", "bc") apart.
    text = "\x1f".join([repr(int(seed)), *(repr(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random generator called by these names, e.g. `stream(seed, "retrain", epoch, sample_id)`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))
