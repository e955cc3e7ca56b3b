"""Resumable training states: whole folders that appear at once, the newest whole one is used.

FOLDER/states/epoch-0003-batch-000120/
  model.safetensors, optimizer.bin, ...   Accelerate's
  progress.json                           where in the run it was taken
  record.json                             digests
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from cfvid import ranks
from cfvid.artifacts import Record, atomic_folder, read_json, remove_leftovers, write_json
from cfvid.errors import ArtifactError

logger = logging.getLogger(__name__)

KIND = "training-state"


@dataclass
class Progress:
    """Where a training run is."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    step: int = 0
    """Batches done in all."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of this epoch's metrics."""


def save_state(accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Write the state and remove older ones: the main process' work, as all have the same."""
    if not ranks.is_main():
        return
    states = folder / "states"
    # The end of an epoch has another name than its last batch: a new state never replaces the one before.
    target = states / f"epoch-{progress.epoch:04d}-batch-{progress.batch:06d}"
    with atomic_folder(target) as temporary:
        accelerator.save_state(str(temporary), safe_serialization=True)
        write_json(temporary / "progress.json", asdict(progress))
        names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        Record.write(temporary, kind=KIND, inputs={}, files=names)
    for older in sorted(states.glob("epoch-*")):
        if older != target:
            shutil.rmtree(older)


def load_state(accelerator: Accelerator, folder: Path) -> Progress:
    """Restore the newest whole state into the prepared objects; a new `Progress` when there is none.

    Every process restores the same one, however many there were when it was taken.
    """
    state = ranks.from_main(_newest(folder / "states") if ranks.is_main() else None)
    if state is None:
        return Progress()
    accelerator.load_state(str(state))
    progress = Progress(**read_json(state / "progress.json"))
    logger.info("resuming at epoch %d, step %d", progress.epoch + 1, progress.step)
    return progress


def _newest(states: Path) -> Path | None:
    """The newest state that is whole."""
    if not states.is_dir():
        return None
    remove_leftovers(states)
    for state in sorted(states.glob("epoch-*"), reverse=True):
        try:
            Record.read(state, kind=KIND).verify(state)
        except ArtifactError as error:
            logger.warning("%s is not used: %s", state, error.what)
            continue
        return state
    return None


def remove_states(folder: Path) -> None:
    """Remove all states, once the trained network is saved."""
    shutil.rmtree(folder / "states", ignore_errors=True)
