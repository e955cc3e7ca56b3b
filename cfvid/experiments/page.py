"""Results -> OUT/report.md with its figures: to be read, and to be committed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cfvid.artifacts import atomic_file, write_text
from cfvid.experiments.figures import all_figures
from cfvid.experiments.predictions import PREDICTORS
from cfvid.report.comparison import METRIC_NAMES, PROTOCOL_NAMES, primary_metric
from cfvid.report.figures import Drawing
from cfvid.report.text import signed, visible

_MARKS = {
    "F": "[F]: found in a public source.",
    "F~": "[F~]: read off a figure, +-0.3.",
}
_NOTHING = "-"


def write_page(results: Mapping[str, Any], output: Path) -> Path:
    """Write report.md and figures/; returns the page."""
    figures = all_figures(results)
    for name, figure in figures.items():
        for scheme, svg in (("light", figure.light), ("dark", figure.dark)):
            with atomic_file(output / "figures" / f"{_slug(name)}-{scheme}.svg") as temporary:
                temporary.write_bytes(svg)
    write_text(output / "report.md", render(results, figures))
    return output / "report.md"


def render(results: Mapping[str, Any], figures: Mapping[str, Drawing]) -> str:
    """The page as Markdown."""
    environment = Environment(  # Markdown, not HTML: texts are made harmless by `_cell`
        loader=PackageLoader("cfvid.experiments"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("report.md").render(
        r=results,
        tables=[_place(results, place, figures) for place in _places(results)],
        papers=[_paper(table) for table in results["paper"]],
        learnt=_learnt(results),
        compute=_compute(results),
        clusters=_clusters(results),
        predictions=_predictions(results["predictions"]),
        overall=results["overall_predictions"] and _predictions(results["overall_predictions"]["entries"]),
        settings=_settings(results["settings"]),
    )


def text_table(results: Mapping[str, Any]) -> str:
    """The verdict and the scores, for a terminal."""
    lines = [line for verdict in results["verdicts"] for line in (verdict["words"], *verdict["reasons"], "")]
    for target, protocol in _places(results):
        metric = primary_metric(_metrics(results, (target, protocol)))
        name = METRIC_NAMES.get(metric, metric)
        lines += [f"{target}, {protocol}, {name} %", _scores(results, target, protocol, metrics=[metric]), ""]
    lines += [f"Careful: {caution}" for caution in results["cautions"]]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- scores and gains


def _places(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((entry["target"], entry["protocol"]) for entry in results["table"]))


def _metrics(results: Mapping[str, Any], place: tuple[str, str]) -> list[str]:
    return list(dict.fromkeys(e["metric"] for e in results["table"] if (e["target"], e["protocol"]) == place))


def _place(results: Mapping[str, Any], place: tuple[str, str], figures: Mapping[str, Drawing]) -> dict[str, Any]:
    target, protocol = place
    metrics = _metrics(results, place)
    kinds = {metric.partition("@")[0] for metric in metrics}
    unit = " ".join([*(METRIC_NAMES.get(kind, kind) for kind in kinds if len(kinds) == 1), "%"])
    return {
        "title": _cell(f"{target}, {PROTOCOL_NAMES[protocol]}, {unit}"),
        "scores": _scores(results, target, protocol, metrics=metrics),
        "gains": _gains(results, target, protocol, metrics=metrics),
        "figures": [_picture(key, figures[key]) for key in figures if key.startswith(f"{target}-{protocol}-")],
    }


def _scores(results: Mapping[str, Any], target: str, protocol: str, *, metrics: Sequence[str]) -> str:
    found = {
        (e["arm"], e["point"], e["metric"]): f"{e['mean']:.1f} ({e['low']:.1f} to {e['high']:.1f})"
        + _number_of_seeds(results, e)
        for e in results["table"]
        if (e["target"], e["protocol"]) == (target, protocol)
    }
    return _grid(results, found, metrics, results["arms"])


def _gains(results: Mapping[str, Any], target: str, protocol: str, *, metrics: Sequence[str]) -> str:
    found = {
        (g["arm"], g["point"], g["metric"]): f"{signed(g['mean'])}{'*' * g['is_clear']} "
        f"({signed(g['low'])} to {signed(g['high'])})" + _number_of_seeds(results, g)
        for g in results["gains"]
        if (g["target"], g["protocol"], g["against"]) == (target, protocol, results["baseline"])
    }
    return _grid(results, found, metrics, [arm for arm in results["arms"] if arm != results["baseline"]])


def _number_of_seeds(results: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Said where it is not that of the experiment."""
    return "" if entry["num_seeds"] == len(results["seeds"]) else f", n = {entry['num_seeds']}"


def _grid(
    results: Mapping[str, Any],
    found: Mapping[tuple[str, str, str], str],
    metrics: Sequence[str],
    arms: Sequence[str],
) -> str:
    """Arms (and metrics, where there are several) by the points of the axis."""
    several = len(metrics) > 1
    axis = f"{results['axis']} = " if results["axis"] else ""
    head = ["arm", *(["metric"] if several else []), *(f"{axis}{point}" or "score" for point in results["points"])]
    rows = []
    for metric in metrics:
        for arm in arms:
            cells = [found.get((arm, point, metric), _NOTHING) for point in results["points"]]
            rows.append([arm, *([metric] if several else []), *cells])
    return _table(head, rows)


# ---------------------------------------------------------------------------------------------- the rest


def _paper(table: Mapping[str, Any]) -> dict[str, str]:
    rows = [
        [name, *(_NOTHING if value is None else f"{value:.1f}" for value in values)]
        for name, values in table["rows"].items()
    ]
    return {**table, "table": _table(["", *table["columns"]], rows), "note": _MARKS[table["mark"]]}


def _compute(results: Mapping[str, Any]) -> str:
    spent = {(e["point"], e["arm"]): e["train_flops"] for e in results["compute"]["by_arm"]}
    rows = []
    for arm in results["arms"]:
        cells = []
        for point in results["points"]:
            own, baseline = spent.get((point, arm)), spent.get((point, results["baseline"]))
            cells.append(f"{own / baseline:.2f} ({own:.2e})" if own is not None and baseline else _NOTHING)
        rows.append([arm, *cells])
    axis = f"{results['axis']} = " if results["axis"] else ""
    return _table(["arm", *(f"{axis}{point}" or "operations" for point in results["points"])], rows)


def _learnt(results: Mapping[str, Any]) -> str:
    """What each arm's N_pre knows, mean over seeds, and chance; arms that share an N_pre have the same figures."""
    if not results["learnt"]:
        return ""
    rows = []
    for arm in dict.fromkeys(entry["arm"] for entry in results["learnt"]):
        cells = []
        for point in results["points"]:
            found = [e for e in results["learnt"] if (e["arm"], e["point"]) == (arm, point)]
            right, chance = (_percent([e[key] for e in found]) for key in ("held_out_accuracy", "chance"))
            cells.append(f"{right} ({chance})" if found else _NOTHING)
        rows.append([arm, *cells])
    axis = f"{results['axis']} = " if results["axis"] else ""
    return _table(["arm", *(f"{axis}{point}" or "right" for point in results["points"])], rows)


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f}" if shares else _NOTHING


def _clusters(results: Mapping[str, Any]) -> str:
    """Figures of the contender's clusters, mean over seeds."""
    if not any(entry["early"] for entry in results["clusters"]):
        return ""
    columns = _cluster_columns(results["settings"]["data"]["targets"])
    rows = []
    for arm in results["arms"]:
        for point in results["points"]:
            entries = [c for c in results["clusters"] if (c["arm"], c["point"]) == (arm, point) and c["early"]]
            if entries:
                values = [_mean([read(entry) for entry in entries]) for read in columns.values()]
                rows.append([arm, *([point] if results["axis"] else []), *values])
    return _table(["arm", *(["at"] if results["axis"] else []), *columns], rows)


def _cluster_columns(targets: Iterable[str]) -> dict[str, Callable[[Mapping[str, Any]], float | None]]:
    """What is told of clusters: how to read it, by its heading."""
    columns: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "effective share": lambda c: c["early"]["effective_share"],
        "stability": lambda c: c["early"]["stability_ari"],
        "NMI true": lambda c: (c["labels"] or {}).get("nmi"),
        "NMI trained on": lambda c: c["early"]["nmi_training_labels"],
    }
    for target, kind in itertools.product(targets, ("raw", "smoothed")):
        columns[f"{target} {kind}"] = functools.partial(_probed, target=target, kind=kind)
    return columns


def _probed(clusters: Mapping[str, Any], *, target: str, kind: str) -> float | None:
    accuracy: float | None = clusters["early"]["probes"][target][kind]
    return accuracy


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return _NOTHING
    mean = sum(known) / len(known)
    return f"{mean:.2f}" if mean <= 1 else f"{mean:.1f}"


def _predictions(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{entry.get('target', 'all targets')}, {entry['protocol']}",
            PREDICTORS[entry["figure"]],
            _NOTHING if entry["spearman"] is None else f"{entry['spearman']:+.2f}",
            str(entry["num_runs"]),
        ]
        for entry in entries
    ]
    return _table(["gain on", "figure", "rank correlation", "runs"], rows)


def _settings(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    pretrain, retrain = config["pretrain"]["training"], config["retrain"]["training"]
    rows = [
        ["N_pre", f"{config['pretrain']['arch']}, {pretrain['epochs']} epochs, batch {pretrain['batch_size']}"],
        ["N_cf", f"{config['retrain']['arch'] or config['pretrain']['arch']}, {retrain['epochs']} epochs"],
        ["K", str(config["cluster"]["num_clusters"] or "from the size of the pool")],
        ["layer of the features", config["extract"]["layer"] or "output of the trunk"],
        ["input", ", ".join(f"{key} {value}" for key, value in config["input"].items() if key.endswith("size"))],
    ]
    return _table(["of the first run", ""], rows)


def _picture(name: str, figure: Drawing) -> str:
    """A figure for light and for dark pages."""
    path, alt = f"figures/{_slug(name)}", _cell(figure.alt).replace('"', "'")
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}-dark.svg">'
        f'<img src="{path}-light.svg" alt="{alt}" width="560"></picture>'
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays inside its table cell, and is no HTML."""
    return visible(str(text)).replace("|", "\\|").replace("<", "&lt;")
