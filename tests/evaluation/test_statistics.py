"""The bootstrap against distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.evaluation.statistics import crossed_means, estimate


def test_one_seed_is_the_bootstrap_over_samples() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((1, 400)) < 0.3).astype(float)
    means = crossed_means(values, rng=rng, num_resamples=20_000)
    p = values.mean()
    assert means.mean() == pytest.approx(p, abs=1e-3)
    assert means.std() == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.03)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 20])
def test_the_variance_over_few_seeds_is_not_too_small(num_seeds: int) -> None:
    """Seeds that differ by N(0, 1) have a mean with variance 1 / S: on average the bootstrap must say so."""
    rng = np.random.default_rng(num_seeds)
    told = [
        crossed_means(np.repeat(rng.normal(size=(num_seeds, 1)), 50, axis=1), rng=rng, num_resamples=400).var()
        for _ in range(400)
    ]
    assert np.mean(told) == pytest.approx(1 / num_seeds, rel=0.15)


def test_both_sources_of_variance_count() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(10, 1)) + rng.normal(size=(1, 100)) + rng.normal(size=(10, 100))
    variance = crossed_means(values, rng=rng, num_resamples=20_000).var()
    seeds = values.mean(axis=1).var(ddof=1) / 10
    samples = values.mean(axis=0).var(ddof=1) / 100
    assert max(seeds, samples) < variance == pytest.approx(seeds + samples, rel=0.25)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        skill = 0.5 + 0.05 * rng.normal(size=(12, 1))
        found = estimate((rng.random((12, 200)) < skill).astype(float), rng=rng, num_resamples=500)
        held += found.low <= 0.5 <= found.high
    assert 0.88 <= held / 300 <= 0.99


def test_an_estimate_is_clear_when_zero_lies_outside() -> None:
    rng = np.random.default_rng(3)
    assert estimate(1 + 0.1 * rng.normal(size=(3, 50)), rng=rng).is_clear
    assert not estimate(rng.normal(size=(3, 50)), rng=rng).is_clear
    assert estimate(np.ones((2, 5)), rng=rng).num_seeds == 2
