"""Average precision against cases that are worked out by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cfvid.evaluation.average_precision import average_precision, influences


def ranked(text: str) -> dict[str, float | None]:
    """Samples from the highest score to the lowest: + is positive, - is negative."""
    return average_precision(-np.arange(len(text), dtype=float), np.array([letter == "+" for letter in text]))


@pytest.mark.parametrize(
    ("text", "area", "eleven_point"),
    [
        ("++--", 1.0, 1.0),
        # Precision 1 up to recall 1/2, then 2/4: of eleven recalls 0 to 0.5 are six.
        ("+--+", 1 / 2 + 1 / 2 * 2 / 4, (6 * 1 + 5 * 2 / 4) / 11),
        # Recalls 1/3 (precision 1), 2/3 (2/3), 1 (3/5): 0 to 0.3 are four, 0.4 to 0.6 are three, 0.7 to 1 are four.
        ("+-+-+", (1 + 2 / 3 + 3 / 5) / 3, (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11),
        # The precision at a recall is the best at this or a higher one: 1/2 at rank 2 becomes 3/5.
        ("-+-++", 3 / 5, 3 / 5),
        ("---+", 1 / 4, 1 / 4),
    ],
)
def test_cases_by_hand(text: str, area: float, eleven_point: float) -> None:
    found = ranked(text)
    assert found["area"] == pytest.approx(area)
    assert found["11-point"] == pytest.approx(eleven_point)


def test_tenths_are_met_exactly() -> None:
    # Each of ten positives is a tenth of recall: precision 1 up to 0.3, then falling.
    assert ranked("+++" + "-" + "+" * 7)["11-point"] == pytest.approx((4 * 1 + 7 * 10 / 11) / 11)


def test_equal_scores_are_taken_together() -> None:
    for positive in ([True, False], [False, True]):
        assert average_precision(np.zeros(2), np.array(positive)) == {"area": 0.5, "11-point": 0.5}


def test_without_positives_there_is_none() -> None:
    assert average_precision(np.zeros(3), np.zeros(3, dtype=bool)) == {"area": None, "11-point": None}


def test_it_is_scikit_learns_where_precision_only_falls() -> None:
    """scikit-learn does not make precision monotonous; where it already is, the areas are the same."""
    text = "++++-++-+--+---+-----"
    positive = np.array([letter == "+" for letter in text])
    expected = average_precision_score(positive, -np.arange(len(text)))
    assert ranked(text)["area"] == pytest.approx(expected, abs=0.02)
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = rng.random(50) < 0.4, rng.normal(size=50)
        assert average_precision(scores, labels)["area"] >= average_precision_score(labels, scores) - 1e-9


def _plain_area(scores: np.ndarray, positive: np.ndarray) -> float:
    hit = positive[np.argsort(-scores, kind="stable")]
    return float((hit * np.cumsum(hit) / np.arange(1, len(hit) + 1)).sum() / hit.sum())


@pytest.mark.parametrize("seed", range(5))
def test_influences_are_what_leaving_out_one_by_one_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < 0.3
    scores = rng.normal(size=40) + positive
    whole = _plain_area(scores, positive)
    without = np.array([_plain_area(np.delete(scores, n), np.delete(positive, n)) for n in range(40)])
    expected = 39 * (whole - without)
    np.testing.assert_allclose(influences(scores, positive), expected - expected.mean(), atol=1e-9)


def test_their_spread_is_that_of_the_average_precision() -> None:
    rng = np.random.default_rng(0)

    def draw(num: int) -> tuple[np.ndarray, np.ndarray]:
        positive = rng.random(num) < 0.2
        return rng.normal(size=num) + 1.5 * positive, positive

    areas = [average_precision(*draw(400))["area"] for _ in range(400)]
    errors = [influences(*draw(400)).std() / 400**0.5 for _ in range(50)]
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.15)
