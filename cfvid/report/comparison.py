"""Scores -> gains of N_cf over N_pre, how sure they are, and the answer in words.

Two things make a gain uncertain: which samples happen to be in the validation split, and how training happened to go.
The interval and the sign test here speak of the first. The second shows in the spread over seeds, as far as seeds go:
they repeat the transfer, not the pretraining, the clustering and the retraining before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cfvid.evaluation.folds import Folds
from cfvid.evaluation.statistics import LEVEL, WIDEST, group_numbers, interval_of, resampled_means
from cfvid.report.text import counted, shortened, signed
from cfvid.seeds import stream

NETWORKS = ("n_pre", "n_cf", "random")
NETWORK_NAMES = {"n_pre": "N_pre", "n_cf": "N_cf", "random": "random"}
PROTOCOL_NAMES = {
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "svm": "linear SVMs",
    "low_shot": "low-shot probe",
    "retrieval": "retrieval",
    "heads": "linear heads",
    "finetune": "full fine-tuning",
}
PRIMARY_METRIC = "top1"
METRIC_NAMES = {"top1": "top-1", "map": "mAP", "recall1": "R@1"}
"""Of those that stand for a protocol; other metrics are called as they are."""
AVERAGES = ("map",)
"""Metrics that are no count of samples."""
_NUM_RESAMPLES = 20_000
_FEW_RESAMPLES = 2_000
_MANY_DISTINCT = 1_000
"""Differences: where samples all differ, as for mAP, there are fewer resamples, to save time."""
_FEW_GROUPS = 20
"""Fewer make an interval that is hardly one."""
_SHARED_CLASSES = 0.5
"""A target is warned about when this share of its classes are pre-training labels."""

Hits = Mapping[str, float]
"""What each scored sample adds to the primary metric, by sample id: 1 where it was named rightly, say, else 0."""
Groups = Mapping[str, str]
"""What samples have in common, by sample id: the film that they were cut from, say."""
Cell = tuple[str, str, str, int]
"""target, protocol, network, seed"""


def gains_of(
    scores: Sequence[Mapping[str, Any]],
    hits: Mapping[Cell, Hits],
    chances: Mapping[str, int],
    groups: Mapping[str, Groups] | None = None,
) -> list[dict[str, Any]]:
    """One entry per (target, protocol, metric) that any network was scored by, in the order of the scores.

    Args:
        scores: entries of {network, target, protocol, metric, value, seed}.
        hits: of each scored cell, where its predictions could be read.
        chances: number of classes by target, where known.
        groups: of samples, by target, where there are any.

    Returns:
        Entries with each network's mean, standard deviation (None for one seed) and number of seeds; `gain`, the mean
        over the seeds that both have of n_cf - n_pre, its `std` and `num_seeds`; `chance`, what guessing scores; and
        for a protocol's primary metric what `uncertainty_of` gives. Deviations over draws are no scores to be compared.
    """
    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for score in (score for score in scores if "_std" not in score["metric"]):
        key = (score["target"], score["protocol"], score["metric"])
        values.setdefault(key, {}).setdefault(score["network"], {})[score["seed"]] = score["value"]
    entries = []
    for (target, protocol, metric), by_network in values.items():
        before, after = by_network.get("n_pre", {}), by_network.get("n_cf", {})
        seeds = sorted(set(before) & set(after))
        gain = _figures([after[seed] - before[seed] for seed in seeds])
        entry: dict[str, Any] = {"target": target, "protocol": protocol, "metric": metric}
        entry |= {"gain": gain["mean"], "std": gain["std"], "num_seeds": len(seeds)}
        entry["chance"] = _chance(metric, chances.get(target))
        entry["networks"] = {
            network: _figures([seeds_of[seed] for seed in sorted(seeds_of)]) | {"seeds": sorted(seeds_of)}
            for network, seeds_of in sorted(by_network.items(), key=lambda item: _place(item[0]))
        }
        if metric == primary_metric(m for t, p, m in values if (t, p) == (target, protocol)):
            pairs = [(hits.get((target, protocol, "n_pre", s)), hits.get((target, protocol, "n_cf", s))) for s in seeds]
            scored = [(b, a) for b, a in pairs if b is not None and a is not None]
            own = (groups or {}).get(target)
            entry |= uncertainty_of(scored, one_by_one=metric not in AVERAGES, groups=own)
        entries.append(entry)
    return entries


def _place(network: str) -> int:
    return NETWORKS.index(network) if network in NETWORKS else len(NETWORKS)


def _figures(values: Sequence[float]) -> dict[str, Any]:
    mean = float(np.mean(values)) if values else None
    return {"mean": mean, "std": float(np.std(values, ddof=1)) if len(values) > 1 else None, "num_seeds": len(values)}


def _chance(metric: str, num_classes: int | None) -> float | None:
    """What guessing scores by top-k, in percent; None for other metrics."""
    k = metric.rpartition("top")[2]
    if num_classes is None or not k.isdigit() or "top" not in metric:
        return None
    return 100.0 * min(int(k), num_classes) / num_classes


def uncertainty_of(
    pairs: Sequence[tuple[Hits, Hits]], *, one_by_one: bool = True, groups: Groups | None = None
) -> dict[str, Any]:
    """How far a gain could be an accident of which samples are in the validation split.

    Args:
        pairs: for each seed the hits of N_pre and of N_cf.
        one_by_one: whether a sample can be won or lost; not so for AVERAGES, which hang on all samples together.
        groups: samples that belong together.

    Returns:
        `num_samples` that both networks were scored on; `interval_95`, a bootstrap over those samples, in points; and
        `won` and `lost`, samples that N_cf names rightly more often, and less often, than N_pre does; `sign_test_p`,
        how likely a split of won and lost at least as uneven is, if neither network were better. Where there are
        groups, `num_groups`: the interval resamples these, and the sign test counts them. Empty without pairs.
    """
    if not pairs:
        return {}
    common = sorted(set.intersection(*(set(hits) for pair in pairs for hits in pair)))
    if not common:
        return {}
    groups = groups or {}
    differences = np.mean(
        [[float(after[i]) - float(before[i]) for i in common] for before, after in pairs], axis=0
    ).round(9)
    numbers = group_numbers(common, groups)
    found: dict[str, Any] = {"num_samples": len(common), "interval_95": _interval(differences, numbers)}
    units = differences
    if numbers is not None:
        units = np.bincount(numbers, weights=differences).round(9)
        found["num_groups"] = len(units)
    if not one_by_one:
        return found
    won, lost = (int(np.count_nonzero(sign * units > 0)) for sign in (1, -1))
    found |= {name: int(np.count_nonzero(sign * differences > 0)) for name, sign in (("won", 1), ("lost", -1))}
    return found | {"sign_test_p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0}


def _interval(differences: np.ndarray, numbers: np.ndarray | None) -> list[float]:
    """The 95 % interval of a gain in points, by the bootstrap over samples or over groups."""
    if numbers is not None and not numbers.any():  # one group says nothing of others
        return [-WIDEST, WIDEST]
    is_quick = len(np.unique(differences)) < _MANY_DISTINCT
    means = resampled_means(
        differences,
        stream(0, "report", "bootstrap"),
        _NUM_RESAMPLES if is_quick else _FEW_RESAMPLES,
        groups_N=numbers,
    )
    return list(interval_of(100 * means))


def is_clear(entry: Mapping[str, Any]) -> bool:
    """Whether a gain is more than the choice of validation samples explains: by the interval and any sign test."""
    interval = entry.get("interval_95")
    if not interval:
        return False
    return (interval[0] > 0 or interval[1] < 0) and entry.get("sign_test_p", 0.0) < 1 - LEVEL


# ---------------------------------------------------------------------------------------------- in words


def headline(gains: Sequence[Mapping[str, Any]], *, folds: Folds | None = None) -> dict[str, Any]:
    """`answer`, one sentence; `details`, one for each comparison by the primary metric."""
    compared = [entry for entry in primary(gains, folds=folds) if entry["gain"] is not None]
    if not compared:
        return {"answer": _no_answer(gains), "details": []}
    # What has no interval is shown, and no answer rests on it.
    judged = [entry for entry in compared if "interval_95" in entry]
    answer = _answer(judged) if judged else _without_intervals(compared)
    return {"answer": answer, "details": [_detail(entry) for entry in compared]}


def primary(entries: Iterable[Mapping[str, Any]], *, folds: Folds | None = None) -> list[Mapping[str, Any]]:
    """The entries by the metric that stands for their target and protocol.

    Args:
        entries: with `target`, `protocol` and `metric`.
        folds: official splits of data sets: where their mean is there, it stands for them.
    """
    found = list(entries)
    metrics: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        metrics.setdefault((entry["target"], entry["protocol"]), []).append(entry["metric"])
    averaged = {fold for name, parts in (folds or {}).items() if name in {t for t, _ in metrics} for fold in parts}
    chosen = {place: primary_metric(names) for place, names in metrics.items() if place[0] not in averaged}
    return [e for e in found if chosen.get((e["target"], e["protocol"])) == e["metric"]]


def primary_metric(metrics: Iterable[str]) -> str:
    """Of a protocol's metrics the one that stands for it: top1, or the first where it has no top1."""
    names = sorted((name for name in metrics if "_std" not in name), key=metric_order)
    return PRIMARY_METRIC if PRIMARY_METRIC in names else names[0]


def metric_order(metric: str) -> tuple[Any, ...]:
    """A key to sort metrics by: of the output before those of layers, of samples before those of views, 5 before 10."""
    name, _, layer = metric.partition("@")
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
    return layer != "", "_top" in name, parts, layer


def _no_answer(gains: Sequence[Mapping[str, Any]]) -> str:
    scored = {network for entry in gains for network in entry["networks"]}
    if scored:
        absent = [NETWORK_NAMES[name] for name in ("n_pre", "n_cf") if name not in scored]
        if absent:
            return f"No comparison yet: {' and '.join(absent)} {'has' if len(absent) == 1 else 'have'} not been scored."
        return "No comparison yet: N_pre and N_cf have not been scored by the same protocol and seed."

    return "No answer yet: nothing has been scored."


def _answer(compared: Sequence[Mapping[str, Any]]) -> str:
    num = len(compared)
    better = sum(is_clear(entry) and entry["gain"] > 0 for entry in compared)
    worse = sum(is_clear(entry) and entry["gain"] < 0 for entry in compared)
    if better == num:
        return "N_cf transfers better than N_pre."
    if worse == num:
        return "N_cf transfers worse than N_pre."
    if better and worse:
        return (
            f"Mixed: of {num} comparisons N_cf is clearly better than N_pre in {better} and clearly worse in {worse}."
        )
    if better or worse:
        said = "better" if better else "worse"
        return f"N_cf is clearly {said} than N_pre in {better or worse} of {num} comparisons; the rest is open."
    if all(entry["gain"] > 0 for entry in compared):
        return "N_cf is ahead of N_pre, but by no more than chance could explain."
    if all(entry["gain"] < 0 for entry in compared):
        return "N_cf is behind N_pre, but by no more than chance could explain."
    return "No clear difference between N_cf and N_pre."


def _without_intervals(compared: Sequence[Mapping[str, Any]]) -> str:
    ahead = sum(entry["gain"] > 0 for entry in compared)
    return f"N_cf is ahead of N_pre in {ahead} of {counted(len(compared), 'comparison')}; how surely is not known."


def _detail(entry: Mapping[str, Any]) -> str:
    networks = entry["networks"]
    text = (
        f"{_where(entry)}: "
        f"N_cf {networks['n_cf']['mean']:.1f}%, N_pre {networks['n_pre']['mean']:.1f}%, "
        f"a gain of {signed(entry['gain'])} points"
    )
    interval = entry.get("interval_95")
    if interval is None:
        return f"{text}."
    verdict = "clear" if is_clear(entry) else "not clear"
    over = f" over {entry['num_groups']} groups" if "num_groups" in entry else ""
    text = f"{text} (95% interval {signed(interval[0])} to {signed(interval[1])}{over}, {verdict})."
    if "won" not in entry:
        return text
    return f"{text} N_cf does better on {entry['won']} and worse on {entry['lost']} of {entry['num_samples']} samples."


def taught_answers(classes: Mapping[str, Sequence[str]], pretraining: Sequence[str]) -> list[str]:
    """A caution for each target of whose classes at least half are pre-training labels.

    Args:
        classes: of each target.
        pretraining: the labels that N_pre was trained on.
    """
    found = []
    for target, names in classes.items():
        shared = len(set(pretraining).intersection(names))
        if shared >= _SHARED_CLASSES * len(names) > 0:
            found.append(
                f"{shortened(target, 80)}: {shared} of its {len(names)} classes are pre-training labels: there N_pre "
                "has been taught the answer, and ClusterFit can be expected to lose."
            )
    return found


def leak_caution(
    target: str, *, num_leaked: int, num_scored: int, hits: Mapping[Cell, Hits], scores: Sequence[Mapping[str, Any]]
) -> str:
    """What a pool and a target have in common, and the gains without it.

    Args:
        target: its name.
        num_leaked: of its validation samples, those that look like one of the pool.
        num_scored: of its validation samples.
        hits: of the others, for each network, protocol and seed.
        scores: of the target.
    """
    said = f"{shortened(target, 80)}: {num_leaked} of its {num_scored} validation samples look like one of the pool"
    if not num_leaked:
        return f"{said}."
    gains = []
    for entry in primary(gains_of(scores, hits, {})):
        protocol = entry["protocol"]
        changes = [
            np.mean([values[i] - before[i] for i in set(values) & set(before)])
            for (_, own, network, seed), values in hits.items()
            if (own, network) == (protocol, "n_cf")
            and (before := hits.get((target, protocol, "n_pre", seed)))
            and not set(values).isdisjoint(before)
        ]
        if changes and entry["gain"] is not None and entry["metric"] not in AVERAGES:
            without = signed(100 * float(np.mean(changes)))
            name = PROTOCOL_NAMES.get(protocol, protocol)
            gains.append(f"{without} instead of {signed(entry['gain'])} points ({name})")
    return f"{said}; without them the gain is {', '.join(gains)}." if gains else f"{said}."


def cautions_of(
    gains: Sequence[Mapping[str, Any]], *, num_scored: Mapping[str, int], archs: tuple[str, str]
) -> list[str]:
    """What to be careful about when reading the scores.

    Args:
        gains: as `gains_of` gives them.
        num_scored: validation samples by target.
        archs: of N_pre and of N_cf.
    """
    if not gains:
        return []
    found = [
        f"{shortened(target, 80)}: one of its {counted(number, 'validation sample')} is {_points(100 / number)}."
        for target, number in num_scored.items()
        if number
    ]
    num_seeds = max(figures["num_seeds"] for entry in gains for figures in entry["networks"].values())
    if num_seeds == 1:
        found.append("One transfer seed: how much the scores vary from training to training is not known.")
    else:
        found.append(f"{num_seeds} transfer seeds; but N_pre, the clusters and N_cf were made only once.")
    found += group_cautions(primary(gains))
    for entry in primary(gains):
        found += _weak_networks(entry)
    compared = [entry for entry in primary(gains) if entry["gain"] is not None]
    if len(compared) >= 5:
        found.append(f"Of {len(compared)} comparisons at 95%, about one in twenty looks clear by accident.")
    if archs[0] != archs[1]:
        found.append(f"N_pre is {archs[0]}, N_cf is {archs[1]}: part of any difference is the architecture's.")
    return found


def group_cautions(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say that intervals resample groups, for each target of which any entry has `num_groups`."""
    told = {}
    for entry in entries:
        if "num_groups" in entry:
            samples, groups = counted(entry["num_samples"], "sample"), counted(entry["num_groups"], "group")
            few = ", too few to say much" if entry["num_groups"] < _FEW_GROUPS else ""
            told[entry["target"]] = (
                f"{shortened(entry['target'], 80)}: its {samples} are of {groups}, such as films that several were cut "
                f"from: intervals resample whole groups{few}."
            )
    return list(told.values())


def _where(entry: Mapping[str, Any]) -> str:
    return f"{shortened(entry['target'], 80)}, {PROTOCOL_NAMES.get(entry['protocol'], entry['protocol'])}"


def _points(value: float) -> str:
    digits = 1 if value >= 0.1 else -math.floor(math.log10(value))
    return f"{value:.{digits}f} points"


def _weak_networks(entry: Mapping[str, Any]) -> list[str]:
    """Networks that learned nothing that a random one of the same kind does not have."""
    networks = entry["networks"]
    if "random" not in networks:
        return []
    weak = [name for name in ("n_pre", "n_cf") if name in networks and _at_most(networks[name], networks["random"])]
    return [f"{_where(entry)}: {NETWORK_NAMES[name]} is no better than a random network." for name in weak]


def _at_most(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["mean"] <= other["mean"])
