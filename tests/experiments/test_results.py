"""Scores are paired by seed and by sample id, whatever is missing."""

from __future__ import annotations

from typing import Any

import pytest

from cfvid.experiments.results import Outcomes, _gains, _matrix, _trends
from cfvid.experiments.spec import ExperimentConfig

PLACE = ("target", "linear", "top1")
SPEC = ExperimentConfig.model_validate(
    {
        "title": "",
        "question": "",
        "modality": "image",
        "arms": {"n_pre": {"network": "n_pre"}, "clusterfit": {}},
        "sizes": {"smoke": {"seeds": [0]}},
    }
)


def hits(rights: str) -> dict[str, bool]:
    """ "abC": samples a, b and c, of which c is named rightly."""
    return {letter.lower(): letter.isupper() for letter in rights}


def outcomes(**runs: dict[int, str]) -> Outcomes:
    """Runs as POINT_ARM: {seed: rights}."""
    by_run: dict[Any, Any] = {}
    for name, by_seed in runs.items():
        point, _, arm = name.partition("_")
        by_run[point, arm] = {seed: hits(rights) for seed, rights in by_seed.items()}
    return Outcomes({PLACE: by_run})


def test_gains_are_over_the_seeds_and_samples_that_both_have() -> None:
    found = outcomes(p_n_pre={0: "Abcd", 1: "abcd"}, p_clusterfit={0: "ABc", 2: "ABCD"})
    [gain] = _gains(found, ["p"], ["n_pre", "clusterfit"], SPEC)
    assert (gain["num_seeds"], gain["num_samples"]) == (1, 3)
    assert gain["mean"] == pytest.approx(100 / 3)  # of a, b and c only b was won
    assert gain["against"] == "n_pre"


def test_samples_are_joined_by_id_not_by_position() -> None:
    found = _matrix(outcomes(p_clusterfit={0: "Abc", 1: "cbA"}).points(PLACE, ("p", "clusterfit")))
    assert found is not None
    assert found[0].tolist() == [[100, 0, 0], [100, 0, 0]]
    assert found[1] == ["a", "b", "c"]


def test_trends_never_pair_different_seeds() -> None:
    found = outcomes(
        p_n_pre={0: "ab", 1: "ab"},
        p_clusterfit={0: "Ab", 1: "AB"},
        q_n_pre={0: "ab", 2: "ab"},
        q_clusterfit={0: "AB", 2: "AB"},
    )
    [trend] = _trends(found, ["p", "q"], SPEC)
    assert trend["num_seeds"] == 1
    assert (trend["gain_first"], trend["gain_last"], trend["mean"]) == (50, 100, 50)


def test_ends_without_a_common_seed_have_no_trend() -> None:
    found = outcomes(p_n_pre={0: "a"}, p_clusterfit={0: "A"}, q_n_pre={1: "a"}, q_clusterfit={1: "A"})
    assert _trends(found, ["p", "q"], SPEC) == []


def test_both_ends_of_a_trend_speak_of_the_samples_that_all_seeds_have() -> None:
    found = outcomes(
        p_n_pre={0: "abc", 1: "ab"},
        p_clusterfit={0: "Abc", 1: "Ab"},
        q_n_pre={0: "abc", 1: "ab"},
        q_clusterfit={0: "ABc", 1: "AB"},
    )
    [trend] = _trends(found, ["p", "q"], SPEC)
    assert (trend["gain_first"], trend["gain_last"], trend["mean"]) == (50, 100, 50)


def test_intervals_resample_groups_of_samples() -> None:
    """Six films of two clips each: both are won or lost together."""
    rights = "ABCDEFGHijkl"
    by_run = {("p", "n_pre"): {0: hits(rights.lower())}, ("p", "clusterfit"): {0: hits(rights)}}
    films = {letter: f"film {number // 2}" for number, letter in enumerate(rights.lower())}
    entries = [
        _gains(Outcomes({PLACE: by_run}, groups), ["p"], ["n_pre", "clusterfit"], SPEC)[0]
        for groups in ({}, {"target": films}, {"another": films})
    ]
    assert entries[0] == entries[2]
    assert "num_groups" not in entries[0]
    assert entries[1]["num_groups"] == 6
    assert entries[1]["mean"] == entries[0]["mean"]
    assert entries[1]["high"] - entries[1]["low"] > 1.4 * (entries[0]["high"] - entries[0]["low"])
