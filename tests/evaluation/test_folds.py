"""The mean over official splits, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.evaluation.folds import joined_groups, joined_values, mean_scores

FOLDS = {"hmdb51": ["hmdb51-1", "hmdb51-2", "hmdb51-3"]}


def score(target: str, value: float, **more: object) -> dict[str, object]:
    return {"target": target, "protocol": "linear", "metric": "top1", "seed": 0, "value": value} | more


def test_the_mean_is_over_the_splits() -> None:
    scores = [score("hmdb51-1", 60.0), score("hmdb51-2", 63.0), score("hmdb51-3", 57.0), score("other", 10.0)]
    assert mean_scores(scores, FOLDS) == [score("hmdb51", 60.0)]


def test_what_is_told_apart_stays_apart_and_half_a_set_has_no_mean() -> None:
    scores = [score(f"hmdb51-{n}", 50.0 + n, seed=seed) for n in (1, 2, 3) for seed in (0, 1)]
    scores += [score("hmdb51-1", 90.0, metric="top5"), score("hmdb51-2", 90.0, metric="top5")]
    assert mean_scores(scores, FOLDS) == [score("hmdb51", 52.0, seed=0), score("hmdb51", 52.0, seed=1)]


def test_samples_of_all_splits_have_the_mean_of_the_means() -> None:
    by_fold = {"a": {"x": 1.0, "y": 0.0}, "b": {"x": 1.0, "y": 1.0, "z": 1.0, "w": 1.0}}
    joined = joined_values(by_fold)
    assert set(joined) == {"x", "y", "z", "w"}
    assert np.mean(list(joined.values())) == pytest.approx((0.5 + 1.0) / 2)


def test_the_same_samples_several_times_are_no_more_samples() -> None:
    values = {"x": 1.0, "y": 0.0, "z": 1.0}
    assert joined_values({"a": values, "b": values, "c": values}) == pytest.approx(values)


def test_groups_of_all_splits() -> None:
    groups = {"a": {"1": "film", "2": "film"}, "b": {"2": "film", "3": "other"}, "c": {"4": "none of theirs"}}
    assert joined_groups(groups, ["a", "b", "without any"]) == {"1": "film", "2": "film", "3": "other"}
