"""One process for a folder: locks that go with their process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cfvid.errors import ArtifactError, FolderInUse

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def own_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Args:
        folder: made when it does not exist.
        wait: for another process that holds it, instead of refusing.

    Raises:
        FolderInUse: naming the owner, without `wait`.
        ArtifactError: when there can be no such folder, or nothing can be written there.
    """
    owner_path = folder / ".owner.json"
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        if not wait:
            raise _in_use(folder, owner_path) from error
        logger.info("waiting for the process that works in %s", folder)
        lock.acquire(timeout=-1)
    except OSError as error:
        why = f"{error.filename or folder}: {error.strerror}"
        raise ArtifactError(
            f"{folder} cannot be the folder of a run.", why=why, fix="Name another one with --output."
        ) from error
    try:
        owner_path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        owner_path.unlink(missing_ok=True)
        lock.release()


def _in_use(folder: Path, owner_path: Path) -> FolderInUse:
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads(owner_path.read_text())
        return FolderInUse(
            f"{folder} is in use by process {owner['pid']} on {owner['host']}.",
            fix="Wait for it, stop it, or name another folder with --output.",
        )
    return FolderInUse(f"{folder} is in use by another process.", fix="Name another --output.")
