"""`cfvid experiment NAME`: run everything that is not done, then say what it means."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfvid.artifacts import own_folder, write_json
from cfvid.errors import CfvidError
from cfvid.experiments.cells import Group, expand
from cfvid.experiments.page import text_table, write_page
from cfvid.experiments.results import collect
from cfvid.experiments.runner import Failure, run_groups
from cfvid.experiments.spec import ExperimentConfig, SizeName
from cfvid.experiments.verdict import cautions, predictions, verdicts
from cfvid.report.table import print_text
from cfvid.stages import Run
from cfvid.yaml_layers import Layer

logger = logging.getLogger(__name__)


def run_experiment(
    experiment: ExperimentConfig,
    output: Path,
    *,
    size: SizeName,
    jobs: int = 1,
    overrides: Layer | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Do all runs that are not done yet, and write results.json, report.md and figures/ into `output`.

    Args:
        experiment: what is compared.
        output: its folder; the same command again resumes.
        size: how large.
        jobs: groups of runs at a time, each in a process of its own.
        overrides: of every run's configuration.
        command: to be printed in the report.

    Returns:
        The results.

    Raises:
        ConfigError: when a run's configuration has faults; before any work.
        FolderInUse: when another process works in `output`.
        CfvidError: when runs failed; the results of the others are written first.
    """
    groups = expand(experiment, size=size, output=output, overrides=overrides)
    failures: list[Failure] = []
    with own_folder(output):
        try:
            failures = run_groups(groups, jobs=jobs)
        finally:  # also of an experiment that is stopped: what is done is worth knowing
            results = summarise(experiment, groups, size=size, command=command)
            write_json(output / "results.json", results)
            page = write_page(results, output)
            print_text(text_table(results))
            logger.info("experiment: %s", page)
    if failures:
        raise CfvidError(
            f"{len(failures)} of {len(groups)} groups of runs failed:\n"
            + "\n".join(f"    {failure.group.name}: {failure.text.splitlines()[0]}" for failure in failures),
            fix="Mend the cause and run the same command again: what is done stays done.",
        )
    return results


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
    names = ["pretrain", *cell.config.data.targets] if cell.config.pretrain.task == "labels" else []
    return {name: run.manifest(name).classes for name in names}


def describe(experiment: ExperimentConfig, groups: Sequence[Group]) -> list[str]:
    """What an experiment would do."""
    cells = [cell for group in groups for cell in group.cells]
    lines = [experiment.title, f"{len(cells)} runs in {len(groups)} groups:"]
    return lines + [f"    {group.name}: {', '.join(cell.arm for cell in group.cells)}" for group in groups]
