"""The runs of an experiment -> scores, gains with intervals, compute and figures of the clusters, as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cfvid import __version__
from cfvid.artifacts import Record, is_complete, read_json
from cfvid.errors import ArtifactError
from cfvid.evaluation.folds import joined_groups, joined_values, mean_scores
from cfvid.evaluation.statistics import Estimate, estimate, group_numbers
from cfvid.experiments.cells import Cell, Group
from cfvid.experiments.spec import ExperimentConfig, SizeName
from cfvid.features import KIND as FEATURES_KIND
from cfvid.modalities import build_modality
from cfvid.report.comparison import PROTOCOL_NAMES, metric_order
from cfvid.seeds import stream
from cfvid.stages.estimate import ESTIMATE_NAME
from cfvid.stages.pretrain import KIND as PRETRAIN_KIND
from cfvid.stages.retrain import KIND as RETRAIN_KIND
from cfvid.stages.transfer import read_groups, read_outcomes
from cfvid.training.compute import view_flops

_COSTLY = {"pretrain": PRETRAIN_KIND, "extract": FEATURES_KIND, "retrain": RETRAIN_KIND}
EQUAL_WITHIN = 0.05
"""Compute that is meant to be equal may differ by this share."""

Values = Mapping[str, float]
"""What each sample adds to a score, 0 to 1: whether it was named rightly, say."""
Place = tuple[str, str, str]
"""target, protocol, metric"""
PointArm = tuple[str, str]
"""point, arm"""


class Outcomes:
    """Who was right on what, for every arm, point, seed, target, protocol and top-1 metric.

    Args:
        values: by place, then by (point, arm), then by seed.
        groups: by target what samples have in common, by sample id.
    """

    def __init__(
        self,
        values: Mapping[Place, Mapping[PointArm, Mapping[int, Values]]],
        groups: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.values, self._groups = values, groups or {}

    def estimate(self, place: Place, values_SN: np.ndarray, ids: Sequence[str]) -> Estimate:
        """The mean of all values with its interval, which resamples groups of samples where there are any.

        Args:
            place: for its draws, and for the groups of its target.
            values_SN: float, one row for each seed.
            ids: of the samples.
        """
        groups_N = group_numbers(ids, self._groups.get(place[0], {}))
        return estimate(values_SN, rng=stream(0, "experiment", "bootstrap", *place), groups_N=groups_N)

    def places(self) -> list[Place]:
        """Targets, protocols and metrics that anything was scored by, in a reading order."""
        protocols = list(PROTOCOL_NAMES)
        return sorted(self.values, key=lambda p: (p[0], protocols.index(p[1]), metric_order(p[2])))

    def points(self, place: Place, run: PointArm) -> dict[int, dict[str, float]]:
        """100 for every right answer and 0 for every wrong one, by seed and sample."""
        by_seed = self.values[place].get(run, {})
        return {seed: {i: 100.0 * value for i, value in values.items()} for seed, values in by_seed.items()}

    def differences(self, place: Place, one: PointArm, other: PointArm) -> dict[int, dict[str, float]]:
        """one - other in points, by seed and sample: of the seeds and samples that both have."""
        first, second = self.values[place].get(one, {}), self.values[place].get(other, {})
        return {
            seed: {i: 100.0 * (first[seed][i] - second[seed][i]) for i in first[seed] if i in second[seed]}
            for seed in sorted(set(first) & set(second))
        }


def _matrix(by_seed: Mapping[int, Mapping[str, float]]) -> tuple[np.ndarray, list[str]] | None:
    """float (S, N), seeds by the samples that all seeds have, and the ids of these; None without a seed."""
    if not by_seed:
        return None
    common = sorted(set.intersection(*(set(values) for values in by_seed.values())))
    return np.array([[by_seed[seed][i] for i in common] for seed in sorted(by_seed)]), common


def _paired(
    first: Mapping[int, Mapping[str, float]], second: Mapping[int, Mapping[str, float]]
) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """Two float (S, N), of the seeds and samples that both have, and the ids of these; None without a seed."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    samples = sorted(set.intersection(*(set(values[seed]) for values in (first, second) for seed in seeds)))
    one, other = (np.array([[values[seed][i] for i in samples] for seed in seeds]) for values in (first, second))
    return one, other, samples


def collect(experiment: ExperimentConfig, groups: Sequence[Group], *, size: SizeName, command: str) -> dict[str, Any]:
    """All that an experiment's finished runs say, as JSON values; unfinished ones are listed in `missing`."""
    cells = [cell for group in groups for cell in group.cells]
    outcomes, scores, missing = _scores(cells)
    points = list(dict.fromkeys(group.point for group in groups))
    arms = [name for name in experiment.arms if any(cell.arm == name for cell in cells)]
    axis = experiment.axis_of(experiment.sizes[size])
    figures = [_figures(cell) for cell in cells if is_complete(cell.folder / "cluster")]
    return {
        "cfvid": __version__,
        "title": experiment.title,
        "question": experiment.question,
        "size": size,
        "command": command,
        "axis": axis.name if axis else None,
        "is_ordered": bool(axis and axis.ordered),
        "points": points,
        "arms": arms,
        "baseline": experiment.baseline,
        "contenders": experiment.contenders,
        "equal_compute": experiment.equal_compute,
        "folds": cells[0].config.transfer.folds if cells else {},
        "seeds": sorted({group.seed for group in groups}),
        "missing": missing,
        "left_out": [name for name in experiment.arms if name not in arms],
        "scores": scores,
        "table": _table(outcomes, points, arms),
        "gains": _gains(outcomes, points, arms, experiment),
        "trends": _trends(outcomes, points, experiment) if axis and axis.ordered else [],
        "compute": compute_of(cells, experiment),
        "learnt": [entry for cell in cells if (entry := _learnt(cell)) is not None],
        "clusters": figures,
        "settings": cells[0].config.plain() if cells else {},
        "paper": [table.model_dump(mode="json") for table in experiment.paper],
    }


# ---------------------------------------------------------------------------------------------- scores


def _scores(cells: Sequence[Cell]) -> tuple[Outcomes, list[dict[str, Any]], list[str]]:
    outcomes: dict[Place, dict[PointArm, dict[int, Values]]] = {}
    groups: dict[str, dict[str, str]] = {}
    scores, missing = [], []
    for cell in cells:
        asked = [(t, p) for t in cell.config.data.targets for p in cell.config.transfer.protocols_of(t)]
        for target, protocol in asked:
            network = cell.network if cell.network != "random" else f"random-seed{cell.seed}"
            folder = cell.folder / "transfer" / target / network / f"{protocol}-seed{cell.seed}"
            if not is_complete(folder):
                missing.append(_name(cell, target, protocol))
                continue
            try:
                by_metric = read_outcomes(folder)
                groups.setdefault(target, {}).update(read_groups(folder))
            except ArtifactError as error:
                missing.append(f"{_name(cell, target, protocol)} ({error.what})")
                continue
            where: dict[str, Any] = {
                "point": cell.point,
                "seed": cell.seed,
                "arm": cell.arm,
                "target": target,
                "protocol": protocol,
            }
            scores += [{**where, "metric": m, "value": v} for m, v in read_json(folder / "scores.json").items()]
            for metric, values in by_metric.items():
                by_run = outcomes.setdefault((target, protocol, metric), {})
                by_run.setdefault((cell.point, cell.arm), {})[cell.seed] = values
    folds = cells[0].config.transfer.folds if cells else {}
    scores += mean_scores(scores, folds)
    for name in folds:
        _add_folds(outcomes, name, folds[name])
        groups[name] = joined_groups(groups, folds[name])
    return Outcomes(outcomes, groups), scores, missing


def _add_folds(outcomes: dict[Place, dict[PointArm, dict[int, Values]]], name: str, folds: Sequence[str]) -> None:
    """Add a data set whose splits are targets, where all of them were scored."""
    for _, protocol, metric in [place for place in outcomes if place[0] == folds[0]]:
        parts = {fold: outcomes.get((fold, protocol, metric), {}) for fold in folds}
        for run in set.intersection(*(set(by_run) for by_run in parts.values())):
            for seed in set.intersection(*(set(by_run[run]) for by_run in parts.values())):
                joined = joined_values({fold: by_run[run][seed] for fold, by_run in parts.items()})
                outcomes.setdefault((name, protocol, metric), {}).setdefault(run, {})[seed] = joined


def _name(cell: Cell, target: str, protocol: str) -> str:
    return " / ".join(filter(None, [cell.point, f"seed {cell.seed}", cell.arm, target, protocol]))


def _table(outcomes: Outcomes, points: Sequence[str], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Each arm's mean with its interval."""
    entries = []
    for place, point, arm in itertools.product(outcomes.places(), points, arms):
        matrix = _matrix(outcomes.points(place, (point, arm)))
        if matrix is not None:
            found = outcomes.estimate(place, *matrix)
            bounds = {"low": max(0.0, found.low), "high": min(100.0, found.high)}  # t knows nothing of percentages
            entries.append({**_where(place, point), "arm": arm, **found.plain(), **bounds})
    return entries


def _gains(
    outcomes: Outcomes, points: Sequence[str], arms: Sequence[str], experiment: ExperimentConfig
) -> list[dict[str, Any]]:
    """Each arm against the baseline, and each contender against each other arm; paired by seed and sample."""
    pairs = [(arm, experiment.baseline) for arm in arms if arm != experiment.baseline]
    for contender in experiment.contenders:
        pairs += [(contender, arm) for arm in arms if arm not in (contender, experiment.baseline)]
    entries = []
    for place, point, (arm, against) in itertools.product(outcomes.places(), points, pairs):
        matrix = _matrix(outcomes.differences(place, (point, arm), (point, against)))
        if matrix is not None:
            found = outcomes.estimate(place, *matrix)
            entry = {**_where(place, point), "arm": arm, "against": against, **found.plain()}
            entries.append(entry | {"is_clear": found.is_clear})
    return entries


def _trends(outcomes: Outcomes, points: Sequence[str], experiment: ExperimentConfig) -> list[dict[str, Any]]:
    """How much larger each contender's gain is at the last point of an ordered axis than at the first."""
    entries = []
    first, last = points[0], points[-1]
    for place, arm in itertools.product(outcomes.places() if first != last else [], experiment.contenders):
        ends = [outcomes.differences(place, (point, arm), (point, experiment.baseline)) for point in (first, last)]
        pair = _paired(*ends)
        if pair is None:
            continue
        found, gain_first = outcomes.estimate(place, pair[1] - pair[0], pair[2]), float(pair[0].mean())
        entry: dict[str, Any] = {"target": place[0], "protocol": place[1], "metric": place[2], "arm": arm}
        entry |= {"first": first, "last": last, "gain_first": gain_first, "gain_last": gain_first + found.mean}
        entries.append(entry | found.plain() | {"is_clear": found.is_clear})
    return entries


def _where(place: Place, point: str) -> dict[str, Any]:
    return {"target": place[0], "protocol": place[1], "metric": place[2], "point": point}


# ---------------------------------------------------------------------------------------------- compute, clusters


def compute_of(cells: Sequence[Cell], experiment: ExperimentConfig) -> dict[str, Any]:
    """Operations spent on the network that each arm scores, mean over seeds, and which groups are not equal."""
    spent: dict[tuple[str, str], list[float]] = {}
    by_name = {(cell.point, cell.seed, cell.arm): cell for cell in cells}
    for cell in cells:
        flops = _training_flops(cell, by_name)
        if flops is not None:
            spent.setdefault((cell.point, cell.arm), []).append(flops)
    means = {place: float(np.mean(values)) for place, values in spent.items()}
    unequal = []
    for group, point in itertools.product(experiment.equal_compute, dict.fromkeys(cell.point for cell in cells)):
        costs = [means[point, arm] for arm in group if (point, arm) in means]
        if len(costs) > 1 and max(costs) > (1 + EQUAL_WITHIN) * min(costs):
            unequal.append({"point": point, "arms": group, "ratio": max(costs) / min(costs)})
    entries = [{"point": point, "arm": arm, "train_flops": cost} for (point, arm), cost in means.items()]
    return {"by_arm": entries, "unequal": unequal}


def _training_flops(cell: Cell, cells: Mapping[tuple[str, int, str], Cell]) -> float | None:
    """Of all training that led to the scored network, and the extraction of features; None before it is there."""
    stages = [name for name in _COSTLY if name in cell.stages and (cell.network == "n_cf" or name == "pretrain")]
    parts = [_flops_of(cell, name) for name in stages]
    needed = {name: cells.get((cell.point, cell.seed, name)) for name in (cell.starts_from, *cell.teachers) if name}
    for name, other in needed.items():
        if other is None:
            return None
        # What it starts from was trained as a whole; of teachers only their features are used.
        parts += (
            [_training_flops(other, cells)]
            if name == cell.starts_from
            else [_flops_of(other, stage) for stage in ("pretrain", "extract")]
        )
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _flops_of(cell: Cell, stage: str) -> float | None:
    if not is_complete(cell.folder / stage):
        return None
    facts = Record.read(cell.folder / stage, kind=_COSTLY[stage]).facts
    if stage == "extract":
        return float(facts["views_seen"] * view_flops(cell.config.pretrain.arch, build_modality(cell.config)))
    return float(facts.get("train_flops", 0.0))  # 0 for weights that were brought along


def _learnt(cell: Cell) -> dict[str, Any] | None:
    """How often a cell's N_pre is right about held-out samples of its own task; None where it has none."""
    if "pretrain" not in cell.stages or not is_complete(cell.folder / "pretrain"):
        return None
    facts = Record.read(cell.folder / "pretrain", kind=PRETRAIN_KIND).facts
    if facts.get("held_out_accuracy") is None:
        return None
    right, chance = facts["held_out_accuracy"], facts["chance"]
    return {"point": cell.point, "seed": cell.seed, "arm": cell.arm, "held_out_accuracy": right, "chance": chance}


def _figures(cell: Cell) -> dict[str, Any]:
    """What there is to know about a cell's pseudo-labels, and what was estimated from them before the retraining.

    `network` stands for the one that was trained on them, in whatever experiment.
    """
    quality = read_json(cell.folder / "cluster" / "quality.json")
    kept = {key: value for key, value in quality.items() if key not in ("sizes", "objective")}
    early_path = cell.folder / "estimate" / ESTIMATE_NAME
    early = read_json(early_path) if is_complete(early_path.parent) else None
    network = (cell.folder / "retrain").resolve().name if is_complete(cell.folder / "retrain") else None
    return {"point": cell.point, "seed": cell.seed, "arm": cell.arm, "network": network, **kept, "early": early}
