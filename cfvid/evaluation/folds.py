"""Official splits of one data set (HMDB51 and UCF101 have three each): each is a target, and their mean is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Folds = Mapping[str, Sequence[str]]
"""The targets that are splits of one data set, by its name."""


def mean_scores(scores: Sequence[Mapping[str, Any]], folds: Folds) -> list[dict[str, Any]]:
    """For each data set the mean over its splits, where all of them were scored.

    Args:
        scores: entries with `target`, `value`, and whatever else tells them apart.
        folds: which targets belong together.

    Returns:
        Entries of the same form, whose target is the data set.
    """
    found: dict[str, dict[tuple[Any, ...], dict[str, Mapping[str, Any]]]] = {}
    for name, targets in folds.items():
        for score in scores:
            if score["target"] in targets:
                rest = tuple(sorted((key, value) for key, value in score.items() if key not in ("target", "value")))
                found.setdefault(name, {}).setdefault(rest, {})[score["target"]] = score
    return [
        {**by_fold[folds[name][0]], "target": name, "value": float(np.mean([s["value"] for s in by_fold.values()]))}
        for name, by_rest in found.items()
        for by_fold in by_rest.values()
        if len(by_fold) == len(folds[name])
    ]


def joined_groups(groups: Mapping[str, Mapping[str, str]], folds: Sequence[str]) -> dict[str, str]:
    """The groups of the samples of all splits, which are the same in each: by sample id.

    Args:
        groups: by target, then by sample id.
        folds: the targets that are splits of one data set.
    """
    return {i: group for fold in folds for i, group in groups.get(fold, {}).items()}


def joined_values(by_fold: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What each sample adds to the mean over the splits: the mean of these values is the mean of the splits' means.

    A sample that is in the validation part of several splits is one sample: intervals must not take it for several.

    Args:
        by_fold: each split's values by sample id.
    """
    ids = dict.fromkeys(i for values in by_fold.values() for i in values)
    shares = {fold: len(ids) / (len(by_fold) * len(values)) for fold, values in by_fold.items()}
    return {i: sum(shares[fold] * values.get(i, 0.0) for fold, values in by_fold.items()) for i in ids}
