"""How well the early figures of pseudo-labels went along with the final gain, over all runs made so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import rankdata, spearmanr

Results = Mapping[str, Any]
"""As `cfvid.experiments.results.collect` gives them, or as they stand in a results.json."""
Pair = tuple[Mapping[str, float | None], float]
"""The early figures of a run, and its gain in points."""

PREDICTORS = {
    "effective_share": "effective clusters, as a share of K",
    "stability_ari": "stability over k-means seeds (ARI)",
    "nmi_training_labels": "NMI with the training labels",
    "probe_smoothed": "linear probe of the smoothed features, top-1",
    "probe_kept": "... as a share of the unsmoothed probe's",
}
_FEWEST_RUNS = 4
"""A rank correlation over fewer runs says nothing."""


def predictions(results: Results) -> list[dict[str, Any]]:
    """Each figure against the gain over the baseline, within one experiment.

    Returns:
        For each target, protocol and figure: Spearman's rank correlation over the runs, and the number of runs; None
        where there are too few or all are equal. Runs of one seed share N_pre and runs of one clustering their
        figures, so that there is no p-value.
    """
    entries = []
    for target, protocol in dict.fromkeys((s["target"], s["protocol"]) for s in results["scores"]):
        pairs = list(_pairs(results, target, protocol))
        if not pairs:  # a protocol without top1, say
            continue
        entries += [{"target": target, "protocol": protocol, **entry} for entry in _entries(pairs)]
    return entries


def overall_predictions(results: Results, others: Sequence[Results]) -> dict[str, Any] | None:
    """Each figure against the gain over all runs of this and of other experiments.

    Ranks are taken within each experiment and target, whose levels differ, and then put together. Of the others, those
    that measure the same at the same size count: runs of a smoke size say nothing about others. A network that several
    experiments share counts once.

    Returns:
        `experiments`, how many; and `entries`, for each protocol and figure as of `predictions`. None when no other
        one counts.
    """
    same = [other for other in others if _is_alike(other, results)]
    if not same:
        return None
    entries = []
    for protocol in dict.fromkeys(score["protocol"] for score in results["scores"]):
        pairs, counted = list[Pair](), set[tuple[str, str]]()
        for one in (results, *same):
            for target in dict.fromkeys(s["target"] for s in one["scores"] if s["protocol"] == protocol):
                known = {network for place, network in counted if place == target}
                rest = [c for c in one["clusters"] if c.get("network") not in known]
                pairs += _ranked(list(_pairs({**one, "clusters": rest}, target, protocol)))
                counted |= {(target, c["network"]) for c in rest if c.get("network")}
        entries += [{"protocol": protocol, **entry} for entry in _entries(pairs)]
    return {"experiments": 1 + len(same), "entries": entries}


def _is_alike(other: Results, results: Results) -> bool:
    modalities = [one.get("settings", {}).get("modality") for one in (other, results)]
    keys = ("cfvid", "size", "baseline")
    return modalities[0] == modalities[1] and all(other.get(key) == results[key] for key in keys)


def _ranked(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with figures and gains as ranks among them, from 0 to 1."""
    ranked: list[dict[str, float | None]] = [dict.fromkeys(PREDICTORS) for _ in pairs]
    for name in PREDICTORS:
        rows = [row for row, (early, _) in enumerate(pairs) if early.get(name) is not None]
        for row, rank in zip(rows, rankdata([pairs[row][0][name] for row in rows]), strict=True):
            ranked[row][name] = float(rank - 0.5) / len(rows)
    gains = (rankdata([gain for _, gain in pairs]) - 0.5) / max(1, len(pairs))
    return list(zip(ranked, map(float, gains), strict=True))


def _entries(pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    for name in PREDICTORS:
        known = [(early[name], gain) for early, gain in pairs if early.get(name) is not None]
        figures, gains = [figure for figure, _ in known], [gain for _, gain in known]
        can_be_ranked = len(known) >= _FEWEST_RUNS and len(set(figures)) > 1 and len(set(gains)) > 1
        correlation = float(spearmanr(figures, gains).statistic) if can_be_ranked else None
        yield {"figure": name, "num_runs": len(known), "spearman": correlation}


def _pairs(results: Results, target: str, protocol: str) -> Iterator[Pair]:
    """Of every clustered run that has a score and a baseline."""
    values = {
        (s["point"], s["seed"], s["arm"]): s["value"]
        for s in results["scores"]
        if (s["target"], s["protocol"], s["metric"]) == (target, protocol, "top1")
    }
    for clusters in results["clusters"]:
        if clusters["arm"] == results["baseline"]:
            continue
        early, key = clusters["early"], (clusters["point"], clusters["seed"])
        before, after = values.get((*key, results["baseline"])), values.get((*key, clusters["arm"]))
        if early is not None and before is not None and after is not None:
            probe = early["probes"].get(target, {"raw": None, "smoothed": None})
            kept = probe["smoothed"] / probe["raw"] if probe["raw"] else None
            yield {**early, "probe_smoothed": probe["smoothed"], "probe_kept": kept}, after - before
