"""Which figures results have, and that each says in words what it shows."""

from __future__ import annotations

from typing import Any

import pytest

from cfvid.experiments.figures import all_figures


def results(*, ordered: bool, layers: bool = True, points: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    table = [
        {"target": "t", "protocol": "linear", "metric": metric, "point": point, "arm": arm}
        | {"mean": 10.0 * number, "low": 10.0 * number - 1, "high": 10.0 * number + 1}
        for number, (point, arm) in enumerate((p, a) for p in points for a in ("n_pre", "clusterfit"))
        for metric in ("top1", *(["top1@layer3"] if layers else []))
    ]
    gains = [
        {"target": "t", "protocol": "linear", "metric": "top1", "point": point, "arm": "clusterfit", "against": "n_pre"}
        | {"mean": 3.0, "low": 1.0, "high": 5.0}
        for point in points
    ]
    values = {"table": table, "gains": gains, "points": list(points), "arms": ["n_pre", "clusterfit"]}
    return values | {"axis": "case", "is_ordered": ordered, "baseline": "n_pre"}


def test_layers_are_shown_where_an_ordered_axis_ends_and_for_every_case_of_another() -> None:
    common = {"t-linear-scores", "t-linear-gains"}
    assert set(all_figures(results(ordered=True))) == common | {"t-linear-layers"}
    assert set(all_figures(results(ordered=False))) == common | {"t-linear-layers-a", "t-linear-layers-b"}
    assert set(all_figures(results(ordered=True, layers=False))) == common
    assert set(all_figures(results(ordered=False, points=("",)))) == {"t-linear-layers"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t-linear-gains", "clusterfit: a +3.0, b +3.0"),
        ("t-linear-layers-a", "(case = a). n_pre: layer3 0.0, output 0.0; clusterfit: layer3 +10.0, output +10.0"),
        ("t-linear-layers-b", "(case = b). n_pre: layer3 +20.0, output +20.0"),
    ],
)
def test_figures_say_in_words_what_they_show(name: str, said: str) -> None:
    figure = all_figures(results(ordered=False))[name]
    assert said in figure.alt
    assert b"<svg" in figure.light
    assert figure.light != figure.dark
