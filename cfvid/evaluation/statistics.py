"""How sure a mean over training seeds and validation samples is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float
    num_seeds: int
    num_samples: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def crossed_means(values_SN: np.ndarray, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Bootstrap means of values that vary with the training seed and with the validation sample.

    Seeds and samples are resampled independently (the "pigeonhole bootstrap" of Owen, 2007). Of S seeds only S - 1 are
    drawn each time, which makes the variance of their mean unbiased however few they are (Rao and Wu, 1988); the tails
    of so few remain too thin, so that intervals over two or three seeds are somewhat too narrow.

    Args:
        values_SN: float, one row for each seed, one column for each sample.
        rng: of the draws.
        num_resamples: how many means.

    Returns:
        float64, (num_resamples,).
    """
    num_seeds, num_samples = values_SN.shape
    # Columns with equal values are alike: resampling their counts is resampling the samples.
    distinct_SU, counts = np.unique(values_SN, axis=1, return_counts=True)
    weights_RU = rng.multinomial(num_samples, counts / num_samples, size=num_resamples) / num_samples
    means_RS = weights_RU @ distinct_SU.T
    if num_seeds == 1:
        return means_RS[:, 0]
    drawn = rng.integers(num_seeds, size=(num_resamples, num_seeds - 1))
    return np.take_along_axis(means_RS, drawn, axis=1).mean(axis=1)


def estimate(values_SN: np.ndarray, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """The mean of all values with its 95% interval; see `crossed_means`."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(crossed_means(values_SN, rng=rng, num_resamples=num_resamples), [tail, 100 - tail])
    return Estimate(float(values_SN.mean()), float(low), float(high), *map(int, values_SN.shape))
