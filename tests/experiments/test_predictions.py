"""Early figures against final gains, within an experiment and over several."""

from __future__ import annotations

from typing import Any

import pytest

from cfvid.experiments.predictions import overall_predictions, predictions


def results(gains: list[float], figures: list[float], **more: Any) -> dict[str, Any]:
    """One run for each seed, with its gain on the target `t` and one early figure that differs."""
    scores, clusters = [], []
    for seed, (gain, figure) in enumerate(zip(gains, figures, strict=True)):
        where = {"point": "0", "seed": seed, "target": "t", "protocol": "linear", "metric": "top1"}
        scores += [{**where, "arm": "n_pre", "value": 20.0}, {**where, "arm": "clusterfit", "value": 20.0 + gain}]
        early = {"effective_share": figure, "stability_ari": -figure, "nmi_training_labels": None}
        early["probes"] = {"t": {"raw": 20.0, "smoothed": 10.0}}
        where = {"point": "0", "seed": seed, "network": None, "early": early}
        clusters += [{**where, "arm": arm} for arm in ("clusterfit", "n_pre")]
    values = {"cfvid": "1", "size": "small", "baseline": "n_pre", "scores": scores, "clusters": clusters}
    return values | more


def by_figure(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["figure"]: entry for entry in entries}


def test_early_figures_are_ranked_against_the_final_gains() -> None:
    found = by_figure(predictions(results([0, 1, 2, 3, 4, 5], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])))
    assert found["effective_share"]["spearman"] == pytest.approx(1)
    assert found["stability_ari"]["spearman"] == pytest.approx(-1)
    assert found["effective_share"]["num_runs"] == 6
    assert found["probe_smoothed"]["spearman"] is None  # all equal
    assert found["nmi_training_labels"]["num_runs"] == 0


def test_three_runs_say_nothing() -> None:
    assert by_figure(predictions(results([0, 1, 2], [0.0, 0.1, 0.2])))["effective_share"]["spearman"] is None


def test_all_runs_of_like_experiments_count_together() -> None:
    # Ranked by themselves: that all of the other's gains are lower says nothing about the figure.
    mine, other = results([1, 2], [0.1, 0.2]), results([-4, -3], [0.3, 0.4])
    overall = overall_predictions(mine, [other])
    assert overall is not None
    assert overall["experiments"] == 2
    found = by_figure(overall["entries"])
    assert found["effective_share"]["num_runs"] == 4
    assert found["effective_share"]["spearman"] == pytest.approx(1)


def test_a_network_that_several_experiments_share_counts_once() -> None:
    mine, other = results([1, 2], [0.1, 0.2]), results([1, 2, 3], [0.1, 0.2, 0.3])
    for one in (mine, other):
        for clusters in one["clusters"]:
            clusters["network"] = f"seed{clusters['seed']}-{clusters['arm']}"
    overall = overall_predictions(mine, [other, mine])
    assert overall is not None
    assert by_figure(overall["entries"])["effective_share"]["num_runs"] == 3
    for clusters in other["clusters"]:
        del clusters["network"]  # as earlier results have it
    overall = overall_predictions(mine, [other])
    assert overall is not None
    assert by_figure(overall["entries"])["effective_share"]["num_runs"] == 5


@pytest.mark.parametrize(
    "more", [{"size": "smoke"}, {"baseline": "clusterfit"}, {"cfvid": "0"}, {"settings": {"modality": "video"}}]
)
def test_experiments_that_measure_something_else_do_not_count(more: dict[str, str]) -> None:
    assert overall_predictions(results([1, 2], [0.1, 0.2]), [results([3, 4], [0.3, 0.4], **more), {}]) is None
