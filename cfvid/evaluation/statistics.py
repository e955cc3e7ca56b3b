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
    standard error over seeds. What is neither the seed's nor the sample's (one network happens to be right on one
    sample) is in both parts; it is taken out of the bootstrap, as in the two-way analysis of variance of readers and
    cases (Obuchowski & Rockette, 1995). Otherwise intervals come out a quarter too wide.

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
        mean, standard_error = values_SN.mean(), values_SN.mean(axis=1).std(ddof=1) / np.sqrt(num_seeds)
        means = mean + np.sqrt(_share_of_samples(values_SN)) * (means - mean)
        means += standard_error * rng.standard_t(num_seeds - 1, size=num_resamples)
    return np.asarray(means, dtype=np.float64)


def _share_of_samples(values_SN: np.ndarray) -> float:
    """Of the variance of the samples' means over seeds: the share that other seeds would show too, 0 to 1."""
    num_seeds, num_samples = values_SN.shape
    means_S, means_N = values_SN.mean(axis=1, keepdims=True), values_SN.mean(axis=0)
    between = means_N.var(ddof=1) if num_samples > 1 else 0.0
    if between == 0:
        return 0.0
    rest_SN = values_SN - means_S - means_N + values_SN.mean()
    rest = (rest_SN**2).sum() / ((num_seeds - 1) * (num_samples - 1)) / num_seeds
    return float(max(0.0, 1 - rest / between))


def estimate(values_SN: np.ndarray, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """The mean of all values with its 95% interval; see `plausible_means`."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(plausible_means(values_SN, rng=rng, num_resamples=num_resamples), [tail, 100 - tail])
    return Estimate(float(values_SN.mean()), float(low), float(high), *map(int, values_SN.shape))
