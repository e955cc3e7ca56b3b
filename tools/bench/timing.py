"""What all benchmarks share: alternating rounds, ratios with their spread, tables."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

Round = Callable[[], float]
"""Does one round of the work and gives its rate, in units per second."""

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorchvideo",
    "decord",
    "av",
    "pillow",
    "faiss-gpu",
    "faiss-cpu",
    "scikit-learn",
    "numpy",
)


@dataclass(frozen=True)
class Comparison:
    """One line of a table: cfvid against a reference that does the same work."""

    benchmark: str
    what: str
    reference: str
    unit: str
    goal: float | None
    """The ratio that is aimed at; None where there is none."""
    candidate_rates: list[float]
    reference_rates: list[float]
    notes: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """cfvid's rate over the reference's, round by round: the two rates of a round are neighbours in time."""
        return [c / r for c, r in zip(self.candidate_rates, self.reference_rates, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        return {
            **asdict(self),
            "candidate_rate": statistics.median(self.candidate_rates),
            "reference_rate": statistics.median(self.reference_rates),
            "ratio": self.ratio,
            "ratio_low": min(self.ratios),
            "ratio_high": max(self.ratios),
            "rounds": len(self.ratios),
        }


def alternate(reference: Round, candidate: Round, *, rounds: int) -> tuple[list[float], list[float]]:
    """Rates of both sides, in turns, so that other load on the machine meets both alike; one warm-up round each.

    The order changes from round to round (A B, B A, ...), so that a steady drift favours neither side.

    Returns:
        The candidate's and the reference's rate in each round.
    """
    rates = take_turns({"reference": reference, "candidate": candidate}, rounds=rounds)
    return rates["candidate"], rates["reference"]


def take_turns(sides: Mapping[str, Round], *, rounds: int) -> dict[str, list[float]]:
    """Rates of each of several sides in each round: as `alternate`, with the order reversed from round to round."""
    for side in sides.values():
        side()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            rates[name].append(sides[name]())
    return rates


def rate_of(work: Callable[[], object], *, units: int) -> float:
    """Units per second of one call."""
    start = time.perf_counter()
    work()
    return units / (time.perf_counter() - start)


def shared_core_notes(*, decode_rate: float, network_rate: float) -> dict[str, float | int | str]:
    """On a CPU decoding takes time from the network: its share of the work, and the ratio that leaves at best."""
    decode_s, network_s = 1 / decode_rate, 1 / network_rate
    share = decode_s / (decode_s + network_s)
    return {"decode_rate": decode_rate, "decode_share": share, "best_possible_ratio": 1 - share}


# ---------------------------------------------------------------------------------------------- output

_HEADER = ["benchmark", "what", "reference", "cfvid", "ref.", "unit", "ratio", "spread", "goal", "notes"]


def text_table(comparisons: Sequence[Comparison]) -> str:
    """Aligned columns, for terminals."""
    rows = [_HEADER, *(_cells(c) for c in comparisons)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """The table of docs/BENCHMARKS.md."""
    rows = [_HEADER, ["---"] * len(_HEADER), *(_cells(c) for c in comparisons)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(comparison: Comparison) -> list[str]:
    plain = comparison.plain()
    return [
        comparison.benchmark,
        comparison.what,
        comparison.reference,
        f"{plain['candidate_rate']:.4g}",
        f"{plain['reference_rate']:.4g}",
        comparison.unit,
        f"{comparison.ratio:.3f}",
        f"{plain['ratio_low']:.2f}-{plain['ratio_high']:.2f} ({plain['rounds']})",
        "" if comparison.goal is None else f"{comparison.goal:g}",
        ", ".join(f"{name} {_short(value)}" for name, value in comparison.notes.items()),
    ]


def _short(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------- machine


def machine() -> dict[str, Any]:
    """What the numbers were measured on; the load tells whether others were using it."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cores": num_cores(),
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        "versions": versions,
        "load_average": os.getloadavg()[0],
    }


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
