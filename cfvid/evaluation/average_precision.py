"""Average precision of one class, by the two rules of the PASCAL VOC challenge."""

from __future__ import annotations

import numpy as np


def average_precision(scores_N: np.ndarray, positive_N: np.ndarray) -> dict[str, float | None]:
    """How well scores rank the positives first.

    Samples of equal score are taken together, so that their order does not matter.

    Args:
        scores_N: float, higher is more likely.
        positive_N: bool. Samples that are neither (VOC's difficult ones) are to be left out of both.

    Returns:
        From 0 to 1: `area`, under the precision that is made monotonous (VOC since 2010); `11-point`, that precision
        averaged at the recalls 0, 0.1, ..., 1 (VOC 2007). None where nothing is positive.
    """
    if not positive_N.any():
        return {"area": None, "11-point": None}
    order = np.argsort(-scores_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)  # of each run of equal scores
    found = np.cumsum(positive_N[order])[ends]
    recall, precision = found / found[-1], found / (ends + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    area = float(np.sum(np.diff(recall, prepend=0) * best))
    # Recalls of tenths are compared with a tolerance: 3 of 10 is not quite 0.3.
    at_tenths = [best[recall >= tenth / 10 - 1e-9].max() for tenth in range(11)]
    return {"area": area, "11-point": float(np.mean(at_tenths))}


def influences(scores_N: np.ndarray, positive_N: np.ndarray) -> np.ndarray:
    """What each sample adds to an average precision: how much this would fall, N - 1 times, were the sample left out.

    These are the deviations of jackknife pseudo-values (Efron & Stein, Annals of Statistics, 1981), which make the
    spread of an average precision that of a mean. Of the area under the precision as it is, not made monotonous, which
    can be given for all samples at once.

    Args:
        scores_N: as for `average_precision`; samples of equal score in the order they have.
        positive_N: likewise, with at least two positives.

    Returns:
        float64 (N,), with a mean of 0.
    """
    num, num_positive = len(scores_N), int(positive_N.sum())
    order = np.argsort(-scores_N, kind="stable")
    hit = positive_N[order].astype(float)
    ranks, found = np.arange(1, num + 1), np.cumsum(hit)
    precision = hit * found / ranks
    # Behind a sample that is left out, ranks fall by one; so do the positives found, when it was one.
    shorter = np.maximum(ranks - 1, 1)
    behind = {name: _sum_behind(hit * value / shorter) for name, value in (("kept", found), ("one_less", found - 1))}
    before = np.cumsum(precision) - precision
    as_negative = (before + behind["kept"]) / num_positive
    as_positive = (before + behind["one_less"]) / (num_positive - 1)
    without = np.where(hit > 0, as_positive, as_negative)
    result = np.empty(num)
    result[order] = (num - 1) * (precision.sum() / num_positive - without)
    return result - result.mean()


def _sum_behind(values: np.ndarray) -> np.ndarray:
    """For each place the sum of all values after it."""
    return np.asarray(values[::-1].cumsum()[::-1] - values)
