"""How this process was started: alone, or as one of several by torchrun or what sets the same variables."""

from __future__ import annotations

import os


def num_processes() -> int:
    """How many processes were started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_launched() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if _is_launched() else 0


def num_on_this_machine() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _is_launched() else 1


def local_rank() -> int:
    """Which of those on this machine this is: the GPU that it uses."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _is_launched() -> bool:
    # Some clusters set WORLD_SIZE and RANK for every job.
    return "LOCAL_RANK" in os.environ
