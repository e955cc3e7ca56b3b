"""Intervals against distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.evaluation.statistics import estimate, group_numbers


def test_one_seed_is_the_bootstrap_over_samples() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((1, 400)) < 0.3).astype(float)
    found = estimate(values, rng=rng, num_resamples=20_000)
    p = values.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / 400)
    assert (found.low, found.high) == pytest.approx((p - half, p + half), abs=0.04 * half)


def test_seeds_that_agree_by_chance_are_no_surer_than_their_samples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 400))
    values -= values.mean(axis=1, keepdims=True)  # equal means
    found = estimate(values, rng=rng, num_resamples=20_000)
    half = 1.96 * np.sqrt(1 / 2 / 400)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.1)


def test_seeds_alone_give_students_interval() -> None:
    seeds = np.array([[1.0], [2.0], [4.0]])
    found = estimate(np.repeat(seeds, 50, axis=1), rng=np.random.default_rng(1), num_resamples=200_000)
    half = 4.303 * seeds.std(ddof=1) / np.sqrt(3)
    assert found.low == pytest.approx(seeds.mean() - half, rel=0.05)
    assert found.high == pytest.approx(seeds.mean() + half, rel=0.05)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 12])
@pytest.mark.parametrize("seed_spread", [0.0, 0.1, 1.0])
def test_intervals_hold_the_truth_as_often_as_they_say(num_seeds: int, seed_spread: float) -> None:
    """Truth 0; seeds differ by `seed_spread`, samples by 1 (a tenth in a mean over 100), and each answer by 1."""
    rng, held = np.random.default_rng(num_seeds), 0
    for _ in range(400):
        values = seed_spread * rng.normal(size=(num_seeds, 1)) + rng.normal(size=(1, 100))
        found = estimate(values + rng.normal(size=(num_seeds, 100)), rng=rng, num_resamples=1000)
        held += found.low <= 0 <= found.high
    assert held / 400 >= 0.92


@pytest.mark.parametrize("per_answer", [0.0, 1.0])
@pytest.mark.parametrize(("num_seeds", "at_most"), [(5, 1.38), (12, 1.13)])
def test_intervals_are_little_wider_than_with_known_spreads(num_seeds: int, at_most: float, per_answer: float) -> None:
    """Also where most of the spread is neither the seed's nor the sample's, as in gains of one network over another."""
    rng, widths = np.random.default_rng(5), []
    for _ in range(200):
        values = 0.03 * rng.normal(size=(num_seeds, 1)) + 0.3 * rng.normal(size=(1, 100))
        found = estimate(values + per_answer * rng.normal(size=(num_seeds, 100)), rng=rng, num_resamples=1000)
        widths.append(found.high - found.low)
    known = 2 * 1.96 * np.sqrt(0.03**2 / num_seeds + 0.3**2 / 100 + per_answer**2 / (100 * num_seeds))
    assert 0.95 <= np.mean(widths) / known <= at_most


def test_an_estimate_is_clear_when_zero_lies_outside() -> None:
    rng = np.random.default_rng(3)
    assert estimate(1 + 0.1 * rng.normal(size=(3, 50)), rng=rng).is_clear
    assert not estimate(rng.normal(size=(3, 50)), rng=rng).is_clear
    assert estimate(np.ones((2, 5)), rng=rng).num_seeds == 2


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("num_groups", [5, 25, 100])
def test_intervals_of_samples_in_groups_hold_the_truth_as_often_as_they_say(num_seeds: int, num_groups: int) -> None:
    """Truth 0; half of what samples differ by is their group's, as of videos that were cut from one: resampling samples
    holds the truth in about 7 of 10 cases instead of 19 of 20."""
    rng, held = np.random.default_rng(num_groups + num_seeds), {"samples": 0, "groups": 0}
    for _ in range(300):
        groups = np.repeat(np.arange(num_groups), rng.integers(2, 9, size=num_groups))
        values = rng.normal(size=num_groups)[groups] + rng.normal(size=len(groups))
        values = values + 0.5 * rng.normal(size=(num_seeds, len(groups)))
        for name, groups_N in (("samples", None), ("groups", groups)):
            found = estimate(values, rng=rng, num_resamples=1000, groups_N=groups_N)
            held[name] += found.low <= 0 <= found.high
    assert 0.92 <= held["groups"] / 300 <= 0.985
    assert held["samples"] / 300 <= 0.85


def test_groups_of_one_sample_each_are_samples() -> None:
    values = np.random.default_rng(0).normal(size=(2, 1000))
    of_samples, of_groups = (
        estimate(values, rng=np.random.default_rng(1), groups_N=groups) for groups in (None, np.arange(1000))
    )
    assert (of_groups.low, of_groups.high) == pytest.approx((of_samples.low, of_samples.high), rel=0.05)
    assert (of_samples.num_groups, of_groups.num_groups) == (None, 1000)
    assert "num_groups" not in of_samples.plain()


def test_one_group_makes_nothing_clear() -> None:
    found = estimate(np.ones((1, 9)), rng=np.random.default_rng(0), groups_N=np.zeros(9, dtype=int))
    assert (found.mean, found.is_clear) == (1.0, False)


def test_numbers_of_groups() -> None:
    numbers = group_numbers(["a", "b", "c", "d", "e"], {"a": "film", "c": "film", "d": "b"})
    assert numbers is not None
    assert numbers.tolist() == [0, 1, 0, 2, 3]  # a group may be called like a sample
    assert group_numbers(["a", "b"], {"a": "film"}) is None
    assert group_numbers(["a", "b"], {}) is None
