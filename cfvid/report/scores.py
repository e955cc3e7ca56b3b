"""Scores of a run folder's networks, and who was right on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cfvid.artifacts import Record, digest_of, read_json
from cfvid.data.leaks import read_leaked
from cfvid.errors import DataError
from cfvid.evaluation.folds import Folds, joined_groups, joined_values, mean_scores
from cfvid.report.comparison import PROTOCOL_NAMES, Cell, Groups, Hits, leak_caution, metric_order, primary_metric
from cfvid.report.confusion import Confusions
from cfvid.report.problems import recorded_digest, tolerant
from cfvid.stages.context import Run
from cfvid.stages.transfer import KIND as TRANSFER_KIND
from cfvid.stages.transfer import read_groups, read_outcomes

_NETWORK_HOMES = {"n_pre": "pretrain/network", "n_cf": "retrain/network"}


def scores_of(
    run: Run, confusions: Confusions, problems: list[str]
) -> tuple[list[dict[str, Any]], dict[str, int], dict[Cell, Hits], dict[str, Groups]]:
    """All scores of the run's own networks, the number of scored samples by target, who was right on what, and what the
    samples of each target have in common."""
    digests = {name: recorded_digest(run.folder / home, "network") for name, home in _NETWORK_HOMES.items()}
    scores: list[dict[str, Any]] = []
    num_scored: dict[str, int] = {}
    hits: dict[Cell, Hits] = {}
    groups: dict[str, Groups] = {}
    settings: dict[tuple[str, str], set[str]] = {}
    for path in sorted((run.folder / "transfer").glob("*/*/*/record.json")):
        what = str(path.parent.relative_to(run.folder))
        with tolerant(problems, what):
            record = Record.read(path.parent, kind=TRANSFER_KIND)
            record.verify(path.parent)
            facts, seed = record.facts, record.inputs["seed"]
            target, protocol, network = (str(facts[key]) for key in ("target", "protocol", "network"))
            if digests.get(network) not in (None, record.inputs["network"]):
                problems.append(f"{what} scores another {network} than the run now has and is left out: run it again.")
                continue
            values = read_json(path.parent / "scores.json")
            entry = {"network": network, "target": target, "protocol": protocol}
            scores += [{**entry, "metric": metric, "value": v, "seed": seed} for metric, v in values.items()]
            num_scored[target] = max(num_scored.get(target, 0), int(facts["num_scored"]))
            shared = {key: value for key, value in record.inputs.items() if key not in ("network", "seed")}
            settings.setdefault((target, protocol), set()).add(digest_of(shared))
            confusions.add((target, protocol, network), path.parent / "predictions.parquet")
            outcomes = read_outcomes(path.parent)
            hits[target, protocol, network, seed] = outcomes[primary_metric(outcomes)] if outcomes else {}
            groups[target] = {**groups.get(target, {}), **read_groups(path.parent)}
    for (target, protocol), kinds in settings.items():
        if len(kinds) > 1:
            problems.append(f"{target}, {protocol}: the networks were scored with different settings or samples.")
    return sorted(scores, key=_order), num_scored, hits, groups


def add_means_over_folds(
    folds: Folds,
    scores: list[dict[str, Any]],
    targets: dict[str, Any],
    hits: dict[Cell, Hits],
    groups: dict[str, Groups],
) -> None:
    """Add each data set whose splits are all scored as a target of its own."""
    scores += mean_scores(scores, folds)
    scores.sort(key=_order)
    for name in {score["target"] for score in scores} & set(folds):
        parts = [targets[fold] for fold in folds[name]]
        targets[name] = parts[0] | {"num_scored": sum(part["num_scored"] for part in parts)}
        groups[name] = joined_groups(groups, folds[name])
        for _, protocol, network, seed in [cell for cell in hits if cell[0] == folds[name][0]]:
            of_folds = {fold: hits.get((fold, protocol, network, seed)) for fold in folds[name]}
            if all(of_folds.values()):
                hits[name, protocol, network, seed] = joined_values({f: rights or {} for f, rights in of_folds.items()})


def leaks_of(
    run: Run, scores: Sequence[Mapping[str, Any]], hits: Mapping[Cell, Hits], problems: list[str]
) -> list[str]:
    """A caution for each target of which it is known what a pool has in common with it."""
    found = []
    for target, path in run.config.report.leaks.items():
        with tolerant(problems, f"report.leaks.{target}"):
            leaked = read_leaked(Path(path))
            kept = {
                cell: {sample_id: value for sample_id, value in values.items() if sample_id not in leaked}
                for cell, values in hits.items()
                if cell[0] == target
            }
            scored = {sample_id for cell, values in hits.items() if cell[0] == target for sample_id in values}
            if leaked and leaked.isdisjoint(run.manifest(target).split("val").ids):
                raise DataError(f"none of its samples is one of {target}'s val split")
            own = [score for score in scores if score["target"] == target]
            found.append(
                leak_caution(target, num_leaked=len(leaked & scored), num_scored=len(scored), hits=kept, scores=own)
            )
    return found


def _order(score: Mapping[str, Any]) -> tuple[Any, ...]:
    """Frozen features before fine-tuning, samples before single views, networks in reading order."""
    protocols, networks = tuple(PROTOCOL_NAMES), ("n_pre", "n_cf", "random")
    protocol, metric, network = score["protocol"], score["metric"], score["network"]
    return (
        score["target"],
        protocols.index(protocol) if protocol in protocols else len(protocols),
        protocol,
        metric_order(metric),
        networks.index(network) if network in networks else len(networks),
        score["seed"],
    )
