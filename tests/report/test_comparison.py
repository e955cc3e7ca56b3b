"""cfvid.report.comparison: gains, how sure they are, and the answer in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cfvid.report.comparison import cautions_of, gains_of, headline, is_clear, primary, uncertainty_of


def score(network: str, value: float, *, seed: int = 0, metric: str = "top1", **where: str) -> dict[str, Any]:
    place = {"target": "t", "protocol": "linear", **where}
    return {"network": network, **place, "metric": metric, "value": value, "seed": seed}


def hits(won: int, lost: int, both: int) -> tuple[dict[str, bool], dict[str, bool]]:
    before = {f"w{i}": False for i in range(won)} | {f"l{i}": True for i in range(lost)}
    after = {f"w{i}": True for i in range(won)} | {f"l{i}": False for i in range(lost)}
    same = {f"s{i}": True for i in range(both)}
    return before | same, after | same


def entries(*pairs: tuple[dict[str, bool], dict[str, bool]]) -> list[dict[str, Any]]:
    """One comparison by each pair of hits, on targets t0, t1, ..."""
    scores, cells = [], {}
    for number, (before, after) in enumerate(pairs):
        for network, right in (("n_pre", before), ("n_cf", after)):
            scores.append(score(network, 100 * sum(right.values()) / len(right), target=f"t{number}"))
            cells[f"t{number}", "linear", network, 0] = right
    return gains_of(scores, cells, {})


def test_gains_are_paired_by_seed() -> None:
    scores = [
        score("n_pre", 10, seed=0),
        score("n_pre", 20, seed=1),
        score("n_cf", 27, seed=1),
        score("n_cf", 50, seed=2),
    ]
    (entry,) = gains_of(scores, {}, {})
    assert (entry["gain"], entry["std"], entry["num_seeds"]) == (7.0, None, 1)
    assert entry["networks"]["n_pre"] == {
        "mean": 15.0,
        "std": pytest.approx(np.std([10, 20], ddof=1)),
        "num_seeds": 2,
        "seeds": [0, 1],
    }


def test_gain_over_several_seeds() -> None:
    scores = [score("n_pre", v, seed=s) for s, v in enumerate((10, 20, 30))]
    scores += [score("n_cf", v, seed=s) for s, v in enumerate((12, 26, 31))]
    (entry,) = gains_of(scores, {}, {})
    assert entry["gain"] == pytest.approx(3.0)
    assert entry["std"] == pytest.approx(np.std([2, 6, 1], ddof=1))


def test_no_gain_without_both_networks() -> None:
    (entry,) = gains_of([score("n_pre", 10)], {}, {})
    assert entry["gain"] is None
    assert entry["num_seeds"] == 0


@pytest.mark.parametrize(
    ("metric", "classes", "chance"),
    [("top1", 4, 25.0), ("top5", 8, 62.5), ("clip_top5", 3, 100.0), ("map", 4, None), ("top1", None, None)],
)
def test_chance(metric: str, classes: int | None, chance: float | None) -> None:
    known = {"t": classes} if classes else {}
    (entry,) = gains_of([score("n_pre", 10, metric=metric)], {}, known)
    assert entry["chance"] == chance


def test_uncertainty_joins_by_id() -> None:
    before = {"a": True, "b": False, "c": False, "absent in the other": True}
    after = {"c": True, "b": False, "a": True}
    found = uncertainty_of([(before, after)])
    assert (found["num_samples"], found["won"], found["lost"]) == (3, 1, 0)


def test_interval_is_that_of_a_plain_bootstrap() -> None:
    before, after = hits(won=30, lost=12, both=58)
    low, high = uncertainty_of([(before, after)])["interval_95"]
    rng = np.random.default_rng(1)
    differences = np.array([after[i] - int(before[i]) for i in before])
    means = 100 * rng.choice(differences, (10_000, len(differences))).mean(axis=1)
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1.1)


def test_seeds_are_averaged_by_sample() -> None:
    # Two seeds that cancel out on every sample leave no difference, and no width.
    before, after = hits(won=5, lost=0, both=5)
    found = uncertainty_of([(before, after), (after, before)])
    assert found["interval_95"] == [0.0, 0.0]
    assert (found["won"], found["lost"], found["sign_test_p"]) == (0, 0, 1.0)


def test_samples_of_one_group_are_no_independent_evidence() -> None:
    """40 won and 10 lost samples are clear, unless they are clips of five films, of which one was lost."""
    before, after = hits(won=40, lost=10, both=0)
    films = {i: f"film {number // 10}" for number, i in enumerate(before)}
    scores = [score("n_pre", 20), score("n_cf", 80)]
    cells = {("t", "linear", "n_pre", 0): before, ("t", "linear", "n_cf", 0): after}
    (alone,) = gains_of(scores, cells, {})
    (grouped,) = gains_of(scores, cells, {}, {"t": films})
    assert is_clear(alone)
    assert not is_clear(grouped)
    assert (grouped["won"], grouped["lost"], grouped["num_groups"]) == (40, 10, 5)
    assert grouped["sign_test_p"] == pytest.approx(0.375)  # of one in five at most, or at least four
    assert grouped["interval_95"][0] < 0 < alone["interval_95"][0]
    assert "num_groups" not in alone
    assert gains_of(scores, cells, {}, {"other": films}) == [alone]
    assert "over 5 groups, not clear" in headline([grouped])["details"][0]
    told = (
        "t: its 50 samples are of 5 groups, such as films that several were cut from: intervals resample whole groups"
    )
    assert f"{told}, too few to say much." in cautions_of([grouped], num_scored={}, archs=("a", "a"))
    (one,) = gains_of(scores, cells, {}, {"t": dict.fromkeys(before, "film")})
    assert one["interval_95"] == [-100.0, 100.0]


@pytest.mark.parametrize(
    ("won", "lost", "clear"),
    [(40, 10, True), (10, 40, True), (13, 10, False), (5, 0, False), (6, 0, True), (0, 0, False)],
)
def test_clear_needs_interval_and_sign_test(won: int, lost: int, clear: bool) -> None:
    # Five wins of five leave the interval above zero, but happen by chance once in sixteen times.
    (entry,) = entries(hits(won, lost, both=20))
    assert is_clear(entry) is clear


UP, DOWN, SLIGHTLY_UP, SLIGHTLY_DOWN = hits(40, 5, 50), hits(5, 40, 50), hits(6, 4, 50), hits(4, 6, 50)


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        ([UP, UP], "N_cf transfers better than N_pre."),
        ([DOWN], "N_cf transfers worse than N_pre."),
        ([UP, DOWN], "Mixed: of 2 comparisons N_cf is clearly better than N_pre in 1 and clearly worse in 1."),
        ([UP, SLIGHTLY_UP], "N_cf is clearly better than N_pre in 1 of 2 comparisons; the rest is open."),
        ([SLIGHTLY_DOWN, DOWN], "N_cf is clearly worse than N_pre in 1 of 2 comparisons; the rest is open."),
        ([SLIGHTLY_UP], "N_cf is ahead of N_pre, but by no more than chance could explain."),
        ([SLIGHTLY_DOWN], "N_cf is behind N_pre, but by no more than chance could explain."),
        ([SLIGHTLY_UP, SLIGHTLY_DOWN], "No clear difference between N_cf and N_pre."),
    ],
)
def test_answer(pairs: list[Any], answer: str) -> None:
    found = headline(entries(*pairs))
    assert found["answer"] == answer
    assert len(found["details"]) == len(pairs)


@pytest.mark.parametrize(
    ("scores", "answer"),
    [
        ([], "No answer yet: nothing has been scored."),
        ([score("n_pre", 10)], "No comparison yet: N_cf has not been scored."),
        ([score("random", 10)], "No comparison yet: N_pre and N_cf have not been scored."),
        (
            [score("n_pre", 10, seed=0), score("n_cf", 20, seed=1)],
            "No comparison yet: N_pre and N_cf have not been scored by the same protocol and seed.",
        ),
    ],
)
def test_no_answer(scores: list[Any], answer: str) -> None:
    assert headline(gains_of(scores, {}, {})) == {"answer": answer, "details": []}


def test_primary_is_top1_where_there_is_one() -> None:
    scores = [score("n_pre", 10, metric=metric, target=t) for t, metric in (("a", "top5"), ("a", "top1"), ("b", "map"))]
    assert [(e["target"], e["metric"]) for e in primary(gains_of(scores, {}, {}))] == [("a", "top1"), ("b", "map")]


def test_cautions() -> None:
    scores = [score("n_pre", 10), score("n_cf", 20), score("random", 15)]
    found = cautions_of(gains_of(scores, {}, {}), num_scored={"t": 72}, archs=("small", "large"))
    text = "\n".join(found)
    assert "t: one of its 72 validation samples is 1.4 points." in text
    assert "One transfer seed" in text
    assert "N_pre is no better than a random network" in text
    assert "N_cf is no better" not in text
    assert "N_pre is small, N_cf is large" in text


def test_cautions_of_a_large_target_with_seeds() -> None:
    scores = [score(network, 10 + seed, seed=seed) for network in ("n_pre", "n_cf") for seed in (0, 1, 2)]
    found = cautions_of(gains_of(scores, {}, {}), num_scored={"t": 20_000}, archs=("a", "a"))
    assert found == [
        "t: one of its 20,000 validation samples is 0.005 points.",
        "3 transfer seeds; but N_pre, the clusters and N_cf were made only once.",
    ]
