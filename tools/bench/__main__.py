"""`python -m tools.bench NAME` from the checkout's root; NAME is a benchmark, or all."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tools.bench.options import Options
from tools.bench.timing import Comparison, machine, markdown_table, num_cores, text_table

NAMES = (
    "decode",
    "clips",
    "cache",
    "extract",
    "retrain",
    "compile",
    "cluster",
    "streaming",
    "hierarchical",
    "memory",
    "peaks",
    "probe",
)
SIZES = ("smoke", "small", "medium", "large")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    chosen = _parser().parse_args(arguments)
    options = Options(size=chosen.size, workers=chosen.workers, rounds=chosen.rounds, videos=chosen.videos)
    start, facts = time.monotonic(), machine()
    comparisons: list[Comparison] = []
    modules = {name: importlib.import_module(f"tools.bench.{name}") for name in NAMES if chosen.name in (name, "all")}
    sized = {name: module for name, module in modules.items() if options.size in module.SIZES}
    if not sized:
        _parser().error(f"{chosen.name} has no size {options.size}")
    for name, module in sized.items():
        for comparison in module.run(options):
            comparisons.append(comparison)
            print(f"{name}: {comparison.what}: {comparison.ratio:.3f}", file=sys.stderr, flush=True)
    facts |= {"load_average_after": machine()["load_average"], "seconds": round(time.monotonic() - start, 1)}
    if chosen.json:
        chosen.json.write_text(json.dumps(_report(chosen.size, facts, comparisons), indent=2) + "\n")
    print(_machine_line(facts))
    print(markdown_table(comparisons) if chosen.markdown else text_table(comparisons))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="smoke only shows that it runs; medium has networks, inputs and pools of usual sizes; large is for a GPU",
    )
    parser.add_argument("--rounds", type=_count, help="timed rounds of both sides, instead of the size's own number")
    parser.add_argument(
        "--workers", type=_count, default=num_cores(), help="decoding processes (default: one per core)"
    )
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="decode, clips, cache: these instead of generated ones"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/BENCHMARKS.md")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _report(size: str, facts: dict[str, Any], comparisons: list[Comparison]) -> dict[str, Any]:
    return {"size": size, "machine": facts, "comparisons": [comparison.plain() for comparison in comparisons]}


def _machine_line(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cores']} cores ({facts['cpu']}), load {facts['load_average']:.1f} before and "
        f"{facts['load_average_after']:.1f} after, {facts['seconds']:.0f} s; Python {facts['python']}, {versions}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
