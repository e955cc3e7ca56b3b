"""`cfvid experiment NAME`: run everything that is not done, then say what it means."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cfvid.artifacts import read_json, write_json
from cfvid.errors import ArtifactError, CfvidError, Interrupted
from cfvid.experiments.cells import Cell, Group, expand
from cfvid.experiments.page import text_table, write_page
from cfvid.experiments.predictions import overall_predictions, predictions
from cfvid.experiments.results import collect
from cfvid.experiments.runner import Failure, run_groups
from cfvid.experiments.spec import ExperimentConfig, SizeName, on_data_of
from cfvid.experiments.verdict import cautions, verdicts
from cfvid.folder_lock import own_folder
from cfvid.preflight import Faults, check
from cfvid.report.table import print_text
from cfvid.report.text import counted
from cfvid.stages import Run
from cfvid.stages.context import CONFIG_NAME
from cfvid.training import interrupts
from cfvid.yaml_layers import Layer

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.json"


def run_experiment(
    experiment: ExperimentConfig,
    output: Path,
    *,
    size: SizeName,
    jobs: int = 1,
    config: Layer | None = None,
    overrides: Layer | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Do all runs that are not done yet, and write results.json, report.md and figures/ into `output`.

    Args:
        experiment: what is compared.
        output: its folder; the same command again resumes.
        size: how large.
        jobs: groups of runs at a time, each in a process of its own.
        config: of every run, instead of the size's where both speak of the same.
        overrides: of every run's configuration, stronger than all else.
        command: to be printed in the report.

    Returns:
        The results.

    Raises:
        CfvidError: before any work, when a configuration or what it needs has faults.
        FolderInUse: when another process works in `output`.
        CfvidError: when runs failed; the results of the others are written first.
        Interrupted: after a signal; the results so far are written first.
    """
    experiment = on_data_of(experiment, size, [layer for layer in (config, overrides) if layer is not None])
    groups = expand(experiment, size=size, output=output, config=config, overrides=overrides)
    check_groups(groups)
    failures: list[Failure] = []
    with own_folder(output):
        for group in groups:
            for cell in group.cells:
                forget_other_work(cell)
        try:
            with interrupts.raising():
                failures = run_groups(groups, jobs=jobs)
        except Interrupted:
            _conclude(experiment, groups, output, size=size, command=command)  # what is done is worth knowing
            raise
        results = _conclude(experiment, groups, output, size=size, command=command)
    if failures:
        raise CfvidError(
            f"{counted(len(failures), 'failure')} in {sum(len(group.cells) for group in groups)} runs:\n"
            + "\n".join(f"    {failure.name}: {failure.text.splitlines()[0]}" for failure in failures),
            fix="Mend the cause and run the same command again: what is done stays done.",
        )
    return results


def check_groups(groups: Sequence[Group]) -> None:
    """Look, before any work, at all that the runs need; those that start from others' work are looked at later.

    Raises:
        CfvidError: with every fault of every run.
    """
    faults = Faults()
    with _told_once():
        for cell in (cell for group in groups if group.seed == groups[0].seed for cell in group.cells):
            if not cell.starts_from and not cell.teachers:
                with faults.collected():
                    check(Run(cell.config, cell.folder, shared=cell.shared), cell.stages)
    faults.raise_all()


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """What many runs say in the same words reaches the log once."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text, known = record.getMessage(), len(told)
        told.add(text)
        return len(told) > known

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def forget_other_work(cell: Cell) -> None:
    """Remove a run's links to work that was done with other settings: until it is done again, it has no results."""
    stored = cell.folder / CONFIG_NAME
    if not stored.is_file():
        return
    # How and where the work is done, and how it is shown, changes no result.
    ours, theirs = cell.config.plain(), yaml.safe_load(stored.read_text(encoding="utf-8"))
    for section in ("runtime", "report", "health"):
        ours.pop(section), theirs.pop(section, None)
    if ours != theirs:
        for folder, names, _ in os.walk(cell.folder):
            for path in (Path(folder) / name for name in names):
                if path.is_symlink():
                    path.unlink()


def _conclude(
    experiment: ExperimentConfig, groups: Sequence[Group], output: Path, *, size: SizeName, command: str
) -> dict[str, Any]:
    """Write and print what the runs that are done say."""
    results = summarise(experiment, groups, size=size, command=command)
    results["overall_predictions"] = overall_predictions(results, _results_beside(output))
    write_json(output / RESULTS_NAME, results)
    page = write_page(results, output)
    print_text(text_table(results))
    logger.info("experiment: %s", page)
    return results


def _results_beside(output: Path) -> list[dict[str, Any]]:
    """Results of other experiments in the same folder; what cannot be read is left out, and told."""
    found = []
    for path in sorted(output.parent.glob(f"*/{RESULTS_NAME}")):
        if path.parent.resolve() != output.resolve():
            try:
                found.append(read_json(path))
            except ArtifactError as error:
                logger.warning("the early estimates of %s are left out: %s", path.parent, error.what)
    return found


def summarise(experiment: ExperimentConfig, groups: Sequence[Group], *, size: SizeName, command: str) -> dict[str, Any]:
    """Results with verdict, cautions and how early estimates fared."""
    results = collect(experiment, groups, size=size, command=command)
    results["verdicts"] = verdicts(results)
    results["cautions"] = cautions(results, classes=_classes(groups))
    results["predictions"] = predictions(results)
    return results


def _classes(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Class names of the pre-training samples and of each target, for the first run's configuration."""
    cell = groups[0].cells[0]
    run = Run(cell.config, cell.folder)
    if cell.config.pretrain.task != "labels":
        return {}
    try:
        return {name: run.manifest(name).classes for name in ("pretrain", *cell.config.data.targets)}
    except CfvidError as error:  # told by the runs themselves
        logger.debug("no classes to compare: %s", error)
        return {}


def describe(experiment: ExperimentConfig, groups: Sequence[Group]) -> list[str]:
    """What an experiment would do."""
    cells = [cell for group in groups for cell in group.cells]
    lines = [experiment.title, f"{len(cells)} runs in {len(groups)} groups:"]
    return lines + [f"    {group.name}: {', '.join(cell.arm for cell in group.cells)}" for group in groups]
