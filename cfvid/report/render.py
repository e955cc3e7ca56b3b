"""Plain data and pictures -> one HTML page that holds all it needs and asks nothing of the network.

Every text that reaches the page is escaped (autoescape) after characters that could hide or reorder it were written
out (finalize); there is no script, and no address that was not made here. The page's own policy forbids both anyway.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cfvid.report.comparison import NETWORK_NAMES, NETWORKS, PROTOCOL_NAMES, is_clear
from cfvid.report.confusion import by_target
from cfvid.report.figures import Drawing, confusion_figure, curve_figure, gain_figure, score_figures, size_figure
from cfvid.report.sheets import Sheets
from cfvid.report.text import counted, duration, shortened, signed, visible

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_DRAWN = 25
"""Classes of a confusion matrix that is drawn."""
_METRIC_NAMES = {"top1": "top-1", "top5": "top-5"}


def render(report: Mapping[str, Any], sheets: Sheets) -> str:
    """The page as HTML.

    Args:
        report: what `cfvid.report.collect.collect` gives.
        sheets: the contact sheets.
    """
    template = _environment().get_template("page.html")
    return template.render(
        report=report,
        policy=_POLICY,
        networks=_networks(report["gains"]),
        rows=score_rows(report["gains"]),
        figures=_figures(report),
        confusions=_confusions(report),
        sheets=sheets,
        config_yaml=yaml.safe_dump(report["config"], sort_keys=False, allow_unicode=True, width=10_000),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cfvid.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "counted": counted,
        "data_uri": _data_uri,
        "duration": duration,
        "network_names": _network_names,
        "shortened": shortened,
        "signed": lambda value: signed(value).replace("-", "\N{MINUS SIGN}"),
    }
    environment.tests["clear"] = is_clear
    environment.globals |= {
        "network_name": lambda name: NETWORK_NAMES.get(name, name),
        "metric_name": lambda name: _METRIC_NAMES.get(name, name.replace("_", " ").replace("top", "top-")),
        "protocol_name": lambda name: PROTOCOL_NAMES.get(name, name),
    }
    return environment


def _shown(value: Any) -> Any:
    """What every expression of the template passes through before it is escaped."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value, keep="\n\t")
    return value


def _network_names(text: str) -> Markup:
    """A sentence with N_cf and N_pre set as they are in the paper."""
    safe = str(escape(visible(text, keep="\n\t")))
    return Markup(safe.replace("N_cf", "N<sub>cf</sub>").replace("N_pre", "N<sub>pre</sub>"))


def _data_uri(data: bytes, media_type: str) -> Markup:
    return Markup(f"data:{escape(media_type)};base64,{base64.b64encode(data).decode()}")


def _networks(gains: Sequence[Mapping[str, Any]]) -> list[str]:
    """The networks that have scores, in reading order."""
    present = {name for entry in gains for name in entry["networks"]}
    return [name for name in NETWORKS if name in present] + sorted(present - set(NETWORKS))


def score_rows(gains: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries of the scores table; `starts_group` says where another target or protocol begins."""
    rows: list[dict[str, Any]] = []
    group: tuple[str, str] | None = None
    for entry in gains:
        rows.append({**entry, "starts_group": group != (entry["target"], entry["protocol"])})
        group = (entry["target"], entry["protocol"])
    return rows


def _confusions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each target and protocol that names classes: figures where they are few, and the pairs of each network."""
    sections = []
    order = [(entry["target"], entry["protocol"]) for entry in report["gains"]]
    found = by_target(report["confusions"])
    for target, protocol in sorted(found, key=order.index):
        entries = found[target, protocol]
        shown = [entries[network] for network in ("n_pre", "n_cf") if network in entries]
        drawn = [entry for entry in shown if len(entry.get("classes", ())) <= _MOST_DRAWN and "counts" in entry]
        figures = [confusion_figure(entry) for entry in drawn]
        sections.append({"target": target, "protocol": protocol, "figures": figures, "entries": shown})
    return [section for section in sections if section["entries"]]


def _figures(report: Mapping[str, Any]) -> dict[str, list[Drawing]]:
    """The figures of each section."""
    pretrain, retrain, clusters = report["pretrain"], report["retrain"], report["clusters"]
    curves = []
    if pretrain["curve"]:
        held_out = pretrain.get("held_out_accuracy")
        curves.append(curve_figure("Pretraining, N_pre", pretrain["curve"], network="n_pre", held_out=held_out))
    if retrain["curve"]:
        curves.append(curve_figure("Retraining, N_cf", retrain["curve"], network="n_cf"))
    tiny_below = report["config"]["health"]["tiny_below"]
    sizes = [size_figure(clusters["sizes"], tiny_below=tiny_below)] if clusters else []
    gain = gain_figure(report["gains"])
    scores = ([gain] if gain else []) + score_figures(report["gains"])
    return {"scores": scores, "curves": curves, "sizes": sizes}
