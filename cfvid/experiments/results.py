"""The runs of an experiment -> scores, gains with intervals, compute and figures of the clusters, as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cfvid import __version__
from cfvid.artifacts import Record, is_complete, read_json
from cfvid.evaluation.statistics import estimate
from cfvid.experiments.cells import Cell, Group
from cfvid.experiments.spec import ExperimentConfig, SizeName
from cfvid.features import KIND as FEATURES_KIND
from cfvid.modalities import build_modality
from cfvid.seeds import stream
from cfvid.stages.estimate import ESTIMATE_NAME
from cfvid.stages.pretrain import KIND as PRETRAIN_KIND
from cfvid.stages.retrain import KIND as RETRAIN_KIND
from cfvid.stages.transfer import read_hits
from cfvid.training.compute import view_flops

EQUAL_WITHIN = 0.05
"""Compute that is meant to be equal may differ by this share."""

Hits = Mapping[str, bool]
"""Whether each sample was named rightly."""
Place = tuple[str, str, str]
"""target, protocol, metric"""


class Outcomes:
    """Who was right on what, for every arm, point, seed, target, protocol and top-1 metric.

    Args:
        hits: by place, then by (point, arm), then by seed.
    """

    def __init__(self, hits: Mapping[Place, Mapping[tuple[str, str], Mapping[int, Hits]]]) -> None:
        self.hits = hits

    def places(self) -> list[Place]:
        """Targets, protocols and metrics that anything was scored by, in a reading order."""
        return sorted(self.hits, key=lambda p: (p[0], p[1] != "linear", p[1], "@" in p[2], p[2]))

    def matrix(self, place: Place, point: str, arm: str) -> np.ndarray | None:
        """Right answers in percent, float (S, N): seeds by samples that all seeds have; None without a score."""
        by_seed = self.hits[place].get((point, arm))
        if not by_seed:
            return None
        common = sorted(set.intersection(*(set(hits) for hits in by_seed.values())))
        return 100.0 * np.array([[by_seed[seed][i] for i in common] for seed in sorted(by_seed)])

    def paired(self, place: Place, one: tuple[str, str], other: tuple[str, str]) -> np.ndarray | None:
        """Differences one - other in points, float (S, N), over the seeds and samples that both have; or None."""
        first, second = self.hits[place].get(one, {}), self.hits[place].get(other, {})
        seeds = sorted(set(first) & set(second))
        if not seeds:
            return None
        common = sorted(set.intersection(*(set(hits[seed]) for seed in seeds for hits in (first, second))))
        rows = [[float(first[seed][i]) - float(second[seed][i]) for i in common] for seed in seeds]
        return 100.0 * np.array(rows)


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
        "points": points,
        "arms": arms,
        "baseline": experiment.baseline,
        "contenders": experiment.contenders,
        "seeds": sorted({group.seed for group in groups}),
        "missing": missing,
        "scores": scores,
        "table": _table(outcomes, points, arms),
        "gains": _gains(outcomes, points, arms, experiment),
        "trends": _trends(outcomes, points, experiment),
        "compute": compute_of(cells, experiment),
        "clusters": figures,
        "settings": cells[0].config.plain() if cells else {},
        "paper": [table.model_dump(mode="json") for table in experiment.paper],
    }


# ---------------------------------------------------------------------------------------------- scores


def _scores(cells: Iterable[Cell]) -> tuple[Outcomes, list[dict[str, Any]], list[str]]:
    hits: dict[Place, dict[tuple[str, str], dict[int, Hits]]] = {}
    scores, missing = [], []
    for cell in cells:
        for target, protocol in itertools.product(cell.config.data.targets, cell.config.transfer.protocols):
            network = cell.network if cell.network != "random" else f"random-seed{cell.seed}"
            folder = cell.folder / "transfer" / target / network / f"{protocol}-seed{cell.seed}"
            if not is_complete(folder):
                missing.append(" / ".join(filter(None, [cell.point, f"seed {cell.seed}", cell.arm, target, protocol])))
                continue
            where: dict[str, Any] = {
                "point": cell.point,
                "seed": cell.seed,
                "arm": cell.arm,
                "target": target,
                "protocol": protocol,
            }
            scores += [{**where, "metric": m, "value": v} for m, v in read_json(folder / "scores.json").items()]
            for metric, right in read_hits(folder).items():
                by_run = hits.setdefault((target, protocol, metric), {})
                by_run.setdefault((cell.point, cell.arm), {})[cell.seed] = right
    return Outcomes(hits), scores, missing


def _table(outcomes: Outcomes, points: Sequence[str], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Each arm's mean with its interval."""
    entries = []
    for place, point, arm in itertools.product(outcomes.places(), points, arms):
        values_SN = outcomes.matrix(place, point, arm)
        if values_SN is not None:
            entries.append({**_where(place, point), "arm": arm, **asdict(estimate(values_SN, rng=_rng(place)))})
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
        values_SN = outcomes.paired(place, (point, arm), (point, against))
        if values_SN is not None:
            found = estimate(values_SN, rng=_rng(place))
            entry = {**_where(place, point), "arm": arm, "against": against, **asdict(found)}
            entries.append(entry | {"is_clear": found.is_clear})
    return entries


def _trends(outcomes: Outcomes, points: Sequence[str], experiment: ExperimentConfig) -> list[dict[str, Any]]:
    """How much larger each contender's gain is at the last point of the axis than at the first."""
    entries = []
    for place, arm in itertools.product(outcomes.places() if len(points) > 1 else [], experiment.contenders):
        ends = [outcomes.paired(place, (point, arm), (point, experiment.baseline)) for point in (points[0], points[-1])]
        if ends[0] is None or ends[1] is None or ends[0].shape != ends[1].shape:
            continue
        found = estimate(ends[1] - ends[0], rng=_rng(place))
        entry: dict[str, Any] = {"target": place[0], "protocol": place[1], "metric": place[2], "arm": arm}
        entry |= {"first": points[0], "last": points[-1]}
        entry |= {"gain_first": float(ends[0].mean()), "gain_last": float(ends[1].mean())}
        entries.append(entry | asdict(found) | {"is_clear": found.is_clear})
    return entries


def _where(place: Place, point: str) -> dict[str, Any]:
    return {"target": place[0], "protocol": place[1], "metric": place[2], "point": point}


def _rng(place: Place) -> np.random.Generator:
    return stream(0, "experiment", "bootstrap", *place)


# ---------------------------------------------------------------------------------------------- compute, clusters


def compute_of(cells: Sequence[Cell], experiment: ExperimentConfig) -> dict[str, Any]:
    """Operations spent on the network that each arm scores, mean over seeds, and which groups are not equal."""
    spent: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        flops = _training_flops(cell)
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


def _training_flops(cell: Cell) -> float | None:
    """Of all training that led to the scored network, and the extraction of features; None before it is there."""
    kinds = {"pretrain": PRETRAIN_KIND, "extract": FEATURES_KIND, "retrain": RETRAIN_KIND}
    stages = [name for name in cell.stages if name in kinds and (cell.network == "n_cf" or name == "pretrain")]
    total = 0.0
    for name in stages:
        if not is_complete(cell.folder / name):
            return None
        facts = Record.read(cell.folder / name, kind=kinds[name]).facts
        if name == "extract":
            total += facts["views_seen"] * view_flops(cell.config.pretrain.arch, build_modality(cell.config))
        else:
            total += facts.get("train_flops", 0.0)  # 0 for weights that were brought along
    return total


def _figures(cell: Cell) -> dict[str, Any]:
    """What there is to know about a cell's pseudo-labels, and what was estimated from them before the retraining."""
    quality = read_json(cell.folder / "cluster" / "quality.json")
    kept = {key: value for key, value in quality.items() if key not in ("sizes", "objective")}
    early_path = cell.folder / "estimate" / ESTIMATE_NAME
    early = read_json(early_path) if is_complete(early_path.parent) else None
    return {"point": cell.point, "seed": cell.seed, "arm": cell.arm, **kept, "early": early}
