"""What a run folder's ledgers say of samples that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet

from cfvid.artifacts import Record
from cfvid.data.skips import LEDGER_NAME, Skip, read_skips
from cfvid.features import KIND as FEATURES_KIND
from cfvid.report.problems import tolerant
from cfvid.stages.context import Run

_MOST_REASONS = 8
_MOST_EXAMPLES = 5


def skips_of(run: Run, records: Mapping[str, Record], problems: list[str]) -> dict[str, Any]:
    """By stage (and by target and split): samples, skips, reasons with their counts, examples, decoder fallbacks."""
    found = {}
    samples = {"pretrain": _num_rows(run.folder / "pretrain" / "labels.parquet")}
    if "pretrain" in records:
        samples["pretrain"] = records["pretrain"].facts.get("num_samples", samples["pretrain"])
    if "cluster" in records:
        samples["retrain"] = records["cluster"].facts.get("num_samples")
    for stage in ("pretrain", "extract", "retrain"):
        ledger = run.folder / stage / LEDGER_NAME
        if ledger.is_file():
            with tolerant(problems, f"{stage}/{LEDGER_NAME}"):
                if stage in records:
                    records[stage].verify(run.folder / stage, only=(LEDGER_NAME,))
                facts = records[stage].facts if stage in records else {}
                found[stage] = _ledger(read_skips(ledger), facts, samples.get(stage))
    stores: dict[str, list[Path]] = {}
    for path in sorted((run.folder / "transfer").glob(f"*/*/features/*/{LEDGER_NAME}")):
        target, split = path.relative_to(run.folder / "transfer").parts[0], path.parent.name
        stores.setdefault(f"transfer, {target} {split}", []).append(path.parent)
    for name, folders in stores.items():
        with tolerant(problems, name):
            # Every network reads the same files: count each sample once.
            skips = {skip.sample_id: skip for folder in folders for skip in read_skips(folder / LEDGER_NAME)}
            facts = Record.read(folders[0], kind=FEATURES_KIND).facts
            found[name] = _ledger(list(skips.values()), facts, None)
    return found


def _num_rows(path: Path) -> int | None:
    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, ValueError):
        return None


def _ledger(skips: list[Skip], facts: Mapping[str, Any], num_samples: int | None) -> dict[str, Any]:
    """One ledger; the number of samples and the fallbacks come from a feature store's facts where there are any."""
    reasons = Counter(_reason(skip) for skip in skips).most_common()
    by_reason = dict(reasons[:_MOST_REASONS])
    if len(reasons) > _MOST_REASONS:
        by_reason["other reasons"] = sum(count for _, count in reasons[_MOST_REASONS:])
    if "num_skipped" in facts:
        num_samples = facts["num_samples"] + facts["num_skipped"]
    return {
        "num_samples": num_samples,
        "num_skipped": len(skips),
        "by_reason": by_reason,
        "fallbacks": facts.get("fallbacks"),
        "examples": [
            {"sample_id": skip.sample_id, "path": skip.path, "reasons": list(skip.reasons)}
            for skip in skips[:_MOST_EXAMPLES]
        ],
    }


def _reason(skip: Skip) -> str:
    """What the last decoder said, without the file's own name, so that equal reasons count together."""
    reason = skip.reasons[-1] if skip.reasons else "unknown"
    for name in (skip.path, Path(skip.path).name):
        reason = reason.replace(name, "(file)")
    return reason
