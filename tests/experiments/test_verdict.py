"""What results are said to mean."""

from __future__ import annotations

from typing import Any

import pytest

from cfvid.experiments.verdict import cautions, verdicts


def gain(
    mean: float, *, half: float = 1.0, point: str = "0", arm: str = "clusterfit", against: str = "n_pre", **where: str
) -> dict:
    entry = {
        "target": "t",
        "protocol": "linear",
        "metric": "top1",
        "point": point,
        "arm": arm,
        "against": against,
        **where,
    }
    return entry | {"mean": mean, "low": mean - half, "high": mean + half, "is_clear": abs(mean) > half}


def results(gains: list[dict], **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"axis": "p", "baseline": "n_pre", "contenders": ["clusterfit"], "gains": gains}
    values |= {"arms": ["n_pre", "n_pre_2x", "clusterfit", "random"], "trends": [], "seeds": [0, 1, 2], "missing": []}
    values |= {"equal_compute": [["n_pre_2x", "clusterfit"]]}
    values |= {
        "folds": {},
        "left_out": [],
        "scores": [],
        "table": [{"target": "t", "protocol": "linear", "num_seeds": 3}],
    }
    return values | {"compute": {"unequal": []}} | more


@pytest.mark.parametrize(
    ("means", "answer", "words"),
    [
        ([3.0, 2.0], "use", "Use N_cf."),
        ([3.0, 0.5], "use", "Use N_cf."),
        ([-3.0, -0.5], "keep", "Keep N_pre."),
        ([3.0, -3.0], "depends", "It depends"),
        ([0.5, 0.2], "open", "Not enough evidence"),
        ([3.0, 0.5, 0.1, 0.2], "open", "Not enough evidence"),
        ([], "open", "Not enough evidence"),
    ],
)
def test_the_answer_follows_the_clear_gains(means: list[float], answer: str, words: str) -> None:
    [found] = verdicts(results([gain(mean, point=str(i)) for i, mean in enumerate(means)]))
    assert found["answer"] == answer
    assert found["words"].startswith(words)
    assert found["reasons"]


def test_arms_of_equal_cost_are_told_beside_the_baseline() -> None:
    [found] = verdicts(results([gain(3.0), gain(-2.0, against="n_pre_2x")]))
    assert any("Against n_pre_2x: clearly ahead in 0 and clearly behind in 1 of 1" in text for text in found["reasons"])


def test_an_arm_of_equal_compute_that_is_ahead_changes_the_answer() -> None:
    [found] = verdicts(results([gain(3.0), gain(-2.0, against="n_pre_2x")]))
    assert (found["answer"], "but of equal compute n_pre_2x is ahead" in found["words"]) == ("rival", True)
    [even] = verdicts(results([gain(3.0), gain(-0.5, against="n_pre_2x")]))
    assert even["answer"] == "use"
    [dearer] = verdicts(results([gain(3.0), gain(-2.0, against="n_pre_2x")], equal_compute=[]))
    assert dearer["answer"] == "use"


def test_one_verdict_for_each_contender() -> None:
    gains = [gain(3.0, arm="a", against="base"), gain(-3.0, arm="b", against="base")]
    found = verdicts(results(gains, arms=["base", "a", "b"], baseline="base", contenders=["a", "b"]))
    assert [(v["contender"], v["words"]) for v in found] == [("a", "Use a."), ("b", "Keep base.")]


def test_a_growing_gain_is_told() -> None:
    trend = {"target": "t", "protocol": "linear", "metric": "top1", "arm": "clusterfit", "first": "0", "last": "0.75"}
    trend |= {"gain_first": 1.0, "gain_last": 9.0, "mean": 8.0, "low": 5.0, "high": 11.0, "is_clear": True}
    [found] = verdicts(results([gain(3.0)], trends=[trend]))
    assert any(
        "from p = 0 to 0.75 the gain goes from +1.0 to +9.0, clearly larger" in text for text in found["reasons"]
    )


def test_targets_whose_classes_were_pretrained_on_are_warned_about() -> None:
    classes = {"pretrain": ["a", "b", "c"], "same": ["a", "b"], "other": ["c", "x", "y"]}
    told = [text for text in cautions(results([]), classes=classes) if "pre-training labels" in text]
    assert len(told) == 1
    assert told[0].startswith("same: 2 of its 2 classes")


def test_few_seeds_unequal_compute_and_missing_runs_are_warned_about() -> None:
    unequal = [{"point": "0.5", "arms": ["n_pre_2x", "clusterfit"], "ratio": 1.3}]
    few = [{"target": "t", "protocol": "linear", "num_seeds": number} for number in (3, 1)]
    some = results([], table=few, compute={"unequal": unequal}, missing=["x"], left_out=["n_pre_2x"])
    told = cautions(some, classes={})
    assert len(told) == 5
    assert any("One seed" in text for text in told)
    assert any("1 of the 3 seeds" in text for text in told)
    assert any("leaves out the arms n_pre_2x" in text for text in told)
    assert any("factor of 1.30" in text for text in told)


def test_scores_without_intervals_are_told() -> None:
    scored = [{"target": "voc07", "protocol": "svm", "metric": "map", "value": 40.0}]
    [told] = cautions(results([], table=[], scores=scored), classes={})
    assert told.startswith("voc07: mean average precision")


def test_every_protocol_counts_once_by_its_primary_metric() -> None:
    recall = [gain(30.0, protocol="retrieval", metric=f"recall{k}") for k in (1, 5, 10)]
    [found] = verdicts(results(recall))
    assert found["answer"] == "use"
    assert found["reasons"][0].startswith("Of 1 comparisons with N_pre, N_cf is clearly better in 1")


def test_official_splits_count_by_their_mean() -> None:
    folds = {"hmdb51": ["h1", "h2", "h3"]}
    clear = [gain(5.0, target=target) for target in ("h1", "h2", "h3", "hmdb51")]
    others = [gain(0.3, target=target) for target in ("a", "b", "c")]
    [found] = verdicts(results([*clear, *others], folds=folds))
    assert found["reasons"][0].startswith("Of 4 comparisons with N_pre, N_cf is clearly better in 1")
    assert found["answer"] == "open"
