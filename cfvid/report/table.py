"""The scores as a plain-text table for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cfvid.report.text import aligned, shortened, signed, visible

_NOTHING = "-"


def text_table(report: Mapping[str, Any]) -> str:
    """The answer, the scores and what to be careful about, as lines of plain text."""
    gains = report["gains"]
    lines = [report["headline"]["answer"], ""]
    if not report["targets"]:
        lines += report["headline"]["details"]
    if gains:
        networks = list(dict.fromkeys(name for entry in gains for name in entry["networks"]))
        heads = ["target", "protocol", "metric", *networks, "gain", "chance"]
        rows = [heads, *(_row(entry, networks) for entry in gains)]
        table = aligned(rows, num_left=3)
        lines += [table[0], "-" * len(table[0]), *table[1:], ""]
        lines.append("Scores in percent, mean +- standard deviation over seeds; gain is n_cf - n_pre, seed by seed.")
    lines += [f"Careful: {text}" for text in report["cautions"]]
    lines += [f"Missing: {text}" for text in report["missing"]]
    lines += [f"Problem: {text}" for text in report["problems"]]
    return "\n".join(visible(line) for line in lines).strip("\n")


def _row(entry: Mapping[str, Any], networks: Sequence[str]) -> list[str]:
    cells = [visible(shortened(str(entry[key]), 32)) for key in ("target", "protocol", "metric")]
    for name in networks:
        figures = entry["networks"].get(name)
        cells.append(_number(figures["mean"], figures["std"]) if figures else _NOTHING)
    gain = _NOTHING if entry["gain"] is None else signed(entry["gain"])
    cells.append(gain if entry["std"] is None else f"{gain} +- {entry['std']:.1f}")
    cells.append(_number(entry["chance"], None))
    return cells


def _number(mean: float | None, std: float | None) -> str:
    if mean is None:
        return _NOTHING
    return f"{mean:.1f}" if std is None else f"{mean:.1f} +- {std:.1f}"


def print_text(text: str) -> None:
    """Print, with escapes for what the terminal's encoding does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
