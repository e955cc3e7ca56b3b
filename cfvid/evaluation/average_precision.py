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
