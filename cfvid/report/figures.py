"""Figures as SVG files, each in a light and a dark version of the same drawing.

They are drawn for a width of about 430 CSS pixels, so that their text is readable on a phone; the page puts them side
by side where there is room. Texts stay text (the reader's own fonts), and are never taken for formulas.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from cfvid.report.comparison import NETWORK_NAMES, NETWORKS, PROTOCOL_NAMES, primary
from cfvid.report.text import shortened, signed, visible

# Colours are drawn as these stand-ins, which matplotlib writes into the SVG as they are, and replaced afterwards.
INK, MUTED, _GRID, _PAGE = "#010101", "#020202", "#030303", "#fefefe"
PRE, CF, RANDOM, MARK = "#040404", "#050505", "#060606", "#070707"
OTHERS = ("#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c")
_LIGHT = {
    INK: "#1d2430",
    MUTED: "#5c6675",
    _GRID: "#e3e7ed",
    _PAGE: "#ffffff",
    PRE: "#5b7fb5",
    CF: "#d9722e",
    RANDOM: "#b4bcc8",
    MARK: "#2f8f6b",
    **dict(zip(OTHERS, ("#8a5fb0", "#2f8f6b", "#b3892a", "#c2527a", "#3d8ea6"), strict=True)),
}
_DARK = {
    INK: "#e6e9ef",
    MUTED: "#98a2b3",
    _GRID: "#2b323d",
    _PAGE: "#181d25",
    PRE: "#7fa3da",
    CF: "#f0924f",
    RANDOM: "#5d6878",
    MARK: "#5fc39b",
    **dict(zip(OTHERS, ("#b48fd8", "#5fc39b", "#d9b45a", "#e583a6", "#6bbdd4"), strict=True)),
}
WIDTH_IN = 4.5
_MOST_BARS = 120
_MOST_NUMBERED = 12
"""Classes of a confusion matrix whose cells have room for a number."""
_MEASURED_FONT = "DejaVu Sans"
"""Comes with matplotlib, so that texts are measured alike everywhere; the page shows the reader's own font."""
_SHOWN_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_NETWORK_COLORS = {"n_pre": PRE, "n_cf": CF, "random": RANDOM}
HALO = {"facecolor": _PAGE, "edgecolor": "none", "pad": 0.0}
"""Behind texts that lines may cross."""
STYLE: Any = {
    "font.family": [_MEASURED_FONT],
    "font.size": 10.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "cfvid",  # the same data give the same bytes
    "text.parse_math": False,  # a `$` in a name is a dollar
    "text.color": INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


@dataclass(frozen=True)
class Drawing:
    """One figure for both colour schemes."""

    light: bytes
    dark: bytes
    alt: str
    """The figure in words, for people who do not see it."""


def score_figures(gains: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """For each target the scores of the networks by protocol: bars of means, whiskers of +- one standard deviation."""
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for entry in primary(gains):
        by_target.setdefault(entry["target"], []).append(entry)
    return [_scores_of(target, entries) for target, entries in by_target.items()]


def _scores_of(target: str, entries: Sequence[Mapping[str, Any]]) -> Drawing:
    networks = [name for name in NETWORKS if any(name in entry["networks"] for entry in entries)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.0), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / max(1, len(networks))
        for place, name in enumerate(networks):
            for x, entry in enumerate(entries):
                figures = entry["networks"].get(name)
                if figures is not None:
                    _bar(axes, x + (place - (len(networks) - 1) / 2) * width, width, figures, name)
        _chance_lines(axes, entries)
        metrics = {entry["metric"] for entry in entries}
        metric = _metric_name(entries[0]["metric"]) if len(metrics) == 1 else "by protocol"
        axes.set_title(f"{_label(target)}, {metric}, %")
        axes.set_xticks(range(len(entries)), [textwrap.fill(_protocol(entry), 11) for entry in entries])
        axes.tick_params(axis="x", labelsize=10, labelcolor=INK)
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0, min(109.0, 1.22 * max(_tops(entries))))
        handles = [Patch(color=_NETWORK_COLORS[name], label=NETWORK_NAMES[name]) for name in networks]
        axes.legend(handles=handles, ncols=len(networks), loc="upper left", handlelength=0.9, handleheight=0.9)
        return drawing(figure, alt=_scores_in_words(target, metric, entries))


def _tops(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    figures = [figures for entry in entries for figures in entry["networks"].values()]
    return [1.0, *(f["mean"] + (f["std"] or 0.0) for f in figures if f["mean"] is not None)]


def _bar(axes: Axes, x: float, width: float, figures: Mapping[str, Any], network: str) -> None:
    mean, std = figures["mean"], figures["std"]
    axes.bar(x, mean, width * 0.9, color=_NETWORK_COLORS[network])
    if std is not None:
        axes.errorbar(x, mean, yerr=std, color=INK, elinewidth=1.1, capsize=2.5)
    axes.annotate(
        f"{mean:.1f}",
        (x, mean + (std or 0.0)),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=9.5,
        fontweight="bold" if network == "n_cf" else "normal",
        bbox=HALO,
    )


def _chance_lines(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    for x, entry in enumerate(entries):
        if entry["chance"] is not None:
            axes.plot([x - 0.44, x + 0.44], [entry["chance"]] * 2, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
            if x == len(entries) - 1:
                axes.annotate(
                    "chance",
                    (x + 0.44, entry["chance"]),
                    xytext=(2, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    color=MUTED,
                )


def _scores_in_words(target: str, metric: str, entries: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for entry in entries:
        values = ", ".join(f"{NETWORK_NAMES.get(n, n)} {f['mean']:.1f}" for n, f in entry["networks"].items())
        parts.append(f"{_protocol(entry)}: {values}")
    return f"Bars of {metric} on {_label(target)} in percent. {'; '.join(parts)}."


def gain_figure(gains: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """The gain of N_cf over N_pre in each comparison, with its 95% interval; None where nothing can be compared."""
    entries = [entry for entry in primary(gains) if entry["gain"] is not None]
    if not entries:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.25 + 0.55 * len(entries)), layout="constrained")
        axes = figure.add_subplot()
        for place, entry in enumerate(entries):
            low, high = entry.get("interval_95") or (entry["gain"], entry["gain"])
            axes.plot([low, high], [place, place], color=MUTED, linewidth=2, solid_capstyle="round")
            axes.plot([entry["gain"]], [place], color=CF, marker="o", markersize=8)
            text = f"{_label(entry['target'])}, {_protocol(entry)}: {signed(entry['gain'])}"
            label = axes.annotate(
                text,
                (0, place),
                xycoords=axes.get_yaxis_transform(),  # from the left edge, whatever the gains are
                xytext=(0, 8),
                textcoords="offset points",
                bbox=HALO,
            )
            label.set_in_layout(False)  # a long name must not squeeze the axes
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_ylim(len(entries) - 0.55, -0.85)
        axes.set_yticks([])
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_title("Gain of N_cf over N_pre, points")
        axes.set_xlabel("dot: the gain; line: its 95% interval")
        parts = [f"{_label(entry['target'])}, {_protocol(entry)} {signed(entry['gain'])}" for entry in entries]
        return drawing(figure, alt=f"Gains of N_cf over N_pre in points: {'; '.join(parts)}.")


def _metric_name(metric: str) -> str:
    return {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}.get(metric, visible(shortened(metric, 20)))


def curve_figure(
    title: str, curve: Sequence[Mapping[str, Any]], *, network: str, held_out: float | None = None
) -> Drawing:
    """Loss and training accuracy by epoch, one above the other; the held-out accuracy as a line where it is known."""
    epochs = [point["epoch"] for point in curve]
    color = _NETWORK_COLORS[network]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, key, label in ((upper, "loss", "loss"), (lower, "accuracy", "accuracy, %")):
            scale = 100 if key == "accuracy" else 1
            values = [math.nan if point[key] is None else scale * point[key] for point in curve]
            axes.plot(epochs, values, color=color, linewidth=1.8, marker="o", markersize=3 if len(curve) <= 40 else 0)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        upper.set_title(title)
        lower.set_xlabel("epoch")
        if len(epochs) == 1:  # around a single point there are no whole numbers to write otherwise
            lower.set_xlim(epochs[0] - 1, epochs[0] + 1)
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if held_out is not None:
            lower.axhline(100 * held_out, color=MARK, linewidth=1.4, linestyle=(0, (4, 2)))
            lower.annotate(
                f"held-out {100 * held_out:.1f}",
                (epochs[0], 100 * held_out),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=9.5,
                color=MARK,
            )
        last = curve[-1]
        ends = ", ".join(f"{key} {last[key]:.3f}" for key in ("loss", "accuracy") if last[key] is not None)
        return drawing(figure, alt=f"{title}: loss and training accuracy over {len(curve)} epochs, at the end {ends}.")


def confusion_figure(entry: Mapping[str, Any]) -> Drawing:
    """One network's confusion matrix: each row a class, its samples spread over what they were taken for."""
    network, classes = entry["network"], entry["classes"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for row, counts in enumerate(entry["counts"]):
            for column, count in enumerate(counts):
                if count:
                    share, color = count / sum(counts), _NETWORK_COLORS[network]
                    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=share, linewidth=0))
                    if len(classes) <= _MOST_NUMBERED:
                        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9)
        ticks = [visible(shortened(name, 14)) for name in classes]
        size = 9 if len(classes) <= _MOST_NUMBERED else 6.5
        axes.set_xticks(range(len(classes)), ticks, rotation=90, fontsize=size)
        axes.set_yticks(range(len(classes)), ticks, fontsize=size)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_title(f"{NETWORK_NAMES.get(network, network)}, % of a row")
        worst = "; ".join(
            f"{100 * pair['share']:.0f}% of {pair['label']} taken for {pair['predicted']}" for pair in entry["pairs"]
        )
        return drawing(figure, alt=f"Confusion matrix of {network}. Most often: {worst or 'nothing'}.")


def size_figure(sizes: Sequence[int], *, tiny_below: int) -> Drawing:
    """The cluster sizes: a bar for each, the largest first, or a histogram where there are too many."""
    equal = sum(sizes) / len(sizes)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.8), layout="constrained")
        axes = figure.add_subplot()
        if len(sizes) <= _MOST_BARS:
            ordered = sorted(sizes, reverse=True)
            colors = [RANDOM if size < tiny_below else CF for size in ordered]
            axes.bar(range(1, len(ordered) + 1), ordered, width=0.82, color=colors)
            axes.axhline(equal, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
            axes.annotate(
                f"{equal:.1f} if all were equal",
                (len(ordered) + 0.5, equal),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=9.5,
                color=MUTED,
            )
            axes.set_xlabel(f"clusters by size (grey: fewer than {tiny_below} samples)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.set_ylabel("samples")
            axes.grid(visible=False, axis="x")
        else:
            axes.hist(sizes, bins=min(60, max(sizes) - min(sizes) + 1), color=CF)
            axes.axvline(equal, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
            axes.set_xlabel("samples in a cluster (dashed: the mean)")
            axes.set_ylabel("clusters")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_title("Cluster sizes")
        alt = f"Sizes of {len(sizes)} clusters, {max(sizes)} down to {min(sizes)} samples; the mean is {equal:.1f}."
        return drawing(figure, alt=alt)


def _protocol(entry: Mapping[str, Any]) -> str:
    return visible(shortened(PROTOCOL_NAMES.get(entry["protocol"], entry["protocol"]), 20))


def _label(text: str) -> str:
    return visible(shortened(text, 40))


def drawing(figure: Figure, *, alt: str) -> Drawing:
    """A figure drawn in `STYLE` as SVG, in both colour schemes."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # Letters that the measuring font lacks are shown all the same: in the reader's own font.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]  # a document type names a web address; not needed
    return Drawing(_painted(svg, _LIGHT), _painted(svg, _DARK), alt)


def _painted(svg: str, colors: Mapping[str, str]) -> bytes:
    for stand_in, color in colors.items():
        svg = svg.replace(stand_in, color)
    return svg.replace(f"'{_MEASURED_FONT}'", _SHOWN_FONTS).encode()
