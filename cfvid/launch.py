"""How this process was started: alone, or as one of several by torchrun or what sets the same variables.

Only a full set of torchrun's variables means several processes. Clusters set some of them for every job, MPI and SLURM
have names of their own, and Accelerate listens to all of these: it is shown none but ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator

from cfvid.errors import ConfigError

logger = logging.getLogger(__name__)

_OF_TORCHRUN = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Each process of several needs them all, to know which one it is and to find the others."""
_MORE_OF_TORCHRUN = ("LOCAL_WORLD_SIZE",)
_FOREIGN = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_", "MPI_LOCAL")
"""How variables begin by which Accelerate would choose a device, a precision, a launcher or a library of its own."""
_PATIENCE_S = 20.0
"""How long the name of the main process' machine may be unknown: that machine may have started a moment ago."""


def num_processes() -> int:
    """How many processes were started for this run.

    Raises:
        ConfigError: as all functions here, when a variable of torchrun's is no such number.
    """
    return _number("WORLD_SIZE", smallest=1) if is_launched() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    if not is_launched():
        return 0
    found = _number("RANK")
    if found >= num_processes():
        raise ConfigError(f"The variable RANK is {found}, WORLD_SIZE {num_processes()}.", fix=_FIX)
    return found


def num_on_this_machine() -> int:
    """How many of them share this machine's cores."""
    return _number("LOCAL_WORLD_SIZE", smallest=1) if is_launched() and "LOCAL_WORLD_SIZE" in os.environ else 1


def is_launched() -> bool:
    """Whether torchrun, or what sets all of its variables, has started this process."""
    return all(os.environ.get(name) for name in _OF_TORCHRUN)


def check() -> None:
    """Look at the variables.

    Raises:
        ConfigError: when they are a full set, but not of numbers that go together.
    """
    if is_launched():
        rank(), num_on_this_machine(), _number("LOCAL_RANK"), _number("MASTER_PORT", smallest=1)


_FIX = "Start several processes with torchrun, or unset its variables to run as one."


def _number(name: str, *, smallest: int = 0) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and int(text) >= smallest):
        raise ConfigError(f"The variable {name} is {text!r}, not a number from {smallest} on.", fix=_FIX)
    return int(text)


def find_main() -> None:
    """Look whether the main process' machine has a name that this one knows, before the processes are connected.

    Raises:
        ConfigError: when it has none, after some patience.
    """
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", smallest=1)
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.getaddrinfo(host, port)
        except (OSError, UnicodeError) as error:
            if time.monotonic() < end_s:
                time.sleep(1)
                continue
            raise ConfigError(
                f"The variable MASTER_ADDR is {host!r}, which this machine does not know.", why=str(error), fix=_FIX
            ) from error
        logger.info("rank %d of %d: looking for the others at %s:%d", rank(), num_processes(), host, port)
        return


@contextlib.contextmanager
def only_own_variables() -> Iterator[None]:
    """Within it, the environment has no variables of launchers but those that count; what is left out is logged."""
    ours = () if is_launched() else (*_OF_TORCHRUN, *_MORE_OF_TORCHRUN)
    hidden = {name: value for name, value in os.environ.items() if name in ours or name.startswith(_FOREIGN)}
    if hidden:
        missing = [name for name in _OF_TORCHRUN if not os.environ.get(name)]
        why = f"one process: torchrun would set {', '.join(missing)} too" if missing else "the configuration decides"
        logger.info("not looked at: %s (%s)", ", ".join(sorted(hidden)), why)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
