"""How sure a mean over training seeds and validation samples is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float
    num_seeds: int
    num_samples: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def plausible_means(
    values_SN: np.ndarray, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
    """Draws of what the mean could have been with other validation samples and other training seeds.

    Samples are many, and are resampled (the bootstrap), the same ones for all seeds. Seeds are few: resampling two or
    three of them would call every second difference clear, so that their part is drawn from Student's t, scaled by the
    standard error over seeds.

    Args:
        values_SN: float, one row for each seed, one column for each sample.
        rng: of the draws.
        num_resamples: how many means.

    Returns:
        float64, (num_resamples,).
    """
    num_seeds, num_samples = values_SN.shape
    # Samples with the same mean over seeds are alike: resampling their counts is resampling the samples.
    distinct, counts = np.unique(values_SN.mean(axis=0), return_counts=True)
    means = rng.multinomial(num_samples, counts / num_samples, size=num_resamples) @ distinct / num_samples
    if num_seeds > 1:
        standard_error = values_SN.mean(axis=1).std(ddof=1) / np.sqrt(num_seeds)
        means = means + standard_error * rng.standard_t(num_seeds - 1, size=num_resamples)
    return np.asarray(means, dtype=np.float64)


def estimate(values_SN: np.ndarray, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """The mean of all values with its 95% interval; see `plausible_means`."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(plausible_means(values_SN, rng=rng, num_resamples=num_resamples), [tail, 100 - tail])
    return Estimate(float(values_SN.mean()), float(low), float(high), *map(int, values_SN.shape))
