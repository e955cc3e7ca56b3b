"""An experiment's figures: scores and gains along its axis, and scores layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfvid.report.comparison import METRIC_NAMES, PROTOCOL_NAMES, primary_metric
from cfvid.report.figures import CF, INK, OTHERS, PRE, RANDOM, STYLE, WIDTH_IN, Drawing, drawing
from cfvid.report.text import shortened, signed, visible

_OUTPUT = "output"
"""What the trunk's own output is called among its layers."""


def all_figures(results: Mapping[str, Any]) -> dict[str, Drawing]:
    """Every figure that the results allow, by a name for its file."""
    figures = {}
    for target, protocol in dict.fromkeys((e["target"], e["protocol"]) for e in results["table"]):
        entries = [e for e in results["table"] if (e["target"], e["protocol"]) == (target, protocol)]
        gains = [g for g in results["gains"] if (g["target"], g["protocol"]) == (target, protocol)]
        name, title = f"{target}-{protocol}", f"{target}, {PROTOCOL_NAMES[protocol]}"
        metric = primary_metric(e["metric"] for e in entries)
        entries = [e for e in entries if e["metric"].partition("@")[0] == metric]
        gains = [g for g in gains if g["metric"] == metric]
        if len(results["points"]) > 1:
            figures[f"{name}-scores"] = scores_figure(results, entries, title=title)
            figures[f"{name}-gains"] = gains_figure(results, gains, title=title)
        if len({e["metric"] for e in entries}) > 1:
            # Along an ordered axis the last point shows most; of the others each is a case of its own.
            for point in results["points"][-1:] if results["is_ordered"] else results["points"]:
                key = "-".join(filter(None, [name, "layers", "" if results["is_ordered"] else point]))
                figures[key] = layers_figure(results, entries, point=point, title=title)
    return figures


def scores_figure(results: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], *, title: str) -> Drawing:
    """The primary metric of every arm along the axis, with 95% intervals.

    Args:
        results: for arms, points and axis.
        entries: of the table, by one metric and perhaps at several layers.
        title: the target and the protocol.
    """
    of_output = [e for e in entries if "@" not in e["metric"]]
    series = {arm: {e["point"]: e for e in of_output if e["arm"] == arm} for arm in results["arms"]}
    figure_title, words = f"{title}: {_metric(entries)}", _in_words(series, results["points"])
    return _along_axis(results, series, title=figure_title, alt=f"{figure_title}. {words}")


def gains_figure(results: Mapping[str, Any], gains: Sequence[Mapping[str, Any]], *, title: str) -> Drawing:
    """Every arm's gain over the baseline along the axis, with 95% intervals."""
    against = results["baseline"]
    series = {
        arm: {g["point"]: g for g in gains if (g["arm"], g["against"]) == (arm, against)}
        for arm in results["arms"]
        if arm not in (against, "random")
    }
    figure_title, words = f"{title}: gain over {against}, points", _in_words(series, results["points"])
    return _along_axis(results, series, title=figure_title, alt=f"{figure_title}. {words}", zero=True)


def layers_figure(
    results: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], *, point: str, title: str
) -> Drawing:
    """The primary metric of every arm by the layer that is looked at, at one point of the axis."""
    layers = [*dict.fromkeys(e["metric"].partition("@")[2] for e in entries if "@" in e["metric"]), _OUTPUT]
    here = [e for e in entries if e["point"] == point]
    series = {
        arm: {e["metric"].partition("@")[2] or _OUTPUT: e for e in here if e["arm"] == arm} for arm in results["arms"]
    }
    figure_title = f"{title}: {_metric(entries)} by layer" + (f" ({results['axis']} = {point})" if point else "")
    alt = f"{figure_title}. {_in_words(series, layers)}"
    return _lines(layers, series, results["arms"], title=figure_title, xlabel="layer probed", alt=alt)


def _metric(entries: Sequence[Mapping[str, Any]]) -> str:
    name = entries[0]["metric"].partition("@")[0]
    return METRIC_NAMES.get(name, name) + ", %"


def _along_axis(results: Mapping[str, Any], series: Any, *, title: str, alt: str, zero: bool = False) -> Drawing:
    return _lines(
        results["points"],
        series,
        results["arms"],
        title=title,
        xlabel=results["axis"] or "",
        alt=alt,
        zero=zero,
        joined=results["is_ordered"],
    )


def _lines(
    places: Sequence[str],
    series: Mapping[str, Mapping[str, Mapping[str, Any]]],
    arms: Sequence[str],
    *,
    title: str,
    xlabel: str,
    alt: str,
    zero: bool = False,
    joined: bool = True,
) -> Drawing:
    colors = _colors(arms)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.25 * WIDTH_IN, 3.6), layout="constrained")
        axes = figure.add_subplot()
        shown = [arm for arm in series if series[arm]]
        for number, arm in enumerate(shown):
            # Side by side, so that whiskers do not hide one another.
            shift = 0.04 * (number - (len(shown) - 1) / 2)
            label = visible(shortened(arm, 30))
            _line(axes, places, series[arm], color=colors[arm], shift=shift, label=label, joined=joined)
        if zero:
            axes.axhline(0, color=INK, linewidth=1.2)
        axes.set_xticks(range(len(places)), [visible(shortened(place, 18)) for place in places])
        axes.set_title(visible(shortened(title, 80)))
        axes.set_xlabel(f"{xlabel}; whiskers: 95% intervals")
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.08)
        figure.legend(loc="outside lower center", ncols=min(4, max(1, len(shown))))
        return drawing(figure, alt=alt)


def _line(
    axes: Axes,
    places: Sequence[str],
    points: Mapping[str, Mapping[str, Any]],
    *,
    color: str,
    shift: float,
    label: str,
    joined: bool,
) -> None:
    x = [index + shift for index, place in enumerate(places) if place in points]
    entries = [points[place] for place in places if place in points]
    means = [entry["mean"] for entry in entries]
    whiskers = [[e["mean"] - e["low"] for e in entries], [e["high"] - e["mean"] for e in entries]]
    width = 1.8 if joined else 0.0
    axes.errorbar(
        x, means, yerr=whiskers, color=color, linewidth=width, elinewidth=1.0, capsize=2.5, marker="o", label=label
    )


def _colors(arms: Sequence[str]) -> dict[str, str]:
    """A colour for each arm: the networks' own where an arm is one of them."""
    known = {"n_pre": PRE, "clusterfit": CF, "random": RANDOM}
    others = [arm for arm in arms if arm not in known]
    return known | {arm: OTHERS[number % len(OTHERS)] for number, arm in enumerate(others)}


def _in_words(series: Mapping[str, Mapping[str, Mapping[str, Any]]], places: Sequence[str]) -> str:
    parts = []
    for arm, points in series.items():
        values = ", ".join(f"{place or 'all'} {signed(points[place]['mean'])}" for place in places if place in points)
        if values:
            parts.append(f"{arm}: {values}")
    return "; ".join(parts)
