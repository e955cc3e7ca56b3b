"""The skip ledger: one line for every sample that could not be read, and the budget that ends a run.

skips.jsonl     {"sample_id": ..., "path": ..., "reasons": ["decord: ...", "pyav: ..."]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cfvid.artifacts import atomic_file
from cfvid.errors import SkipBudgetExceeded

LEDGER_NAME = "skips.jsonl"


@dataclass(frozen=True)
class Skip:
    """One sample that no decoder could read."""

    sample_id: str
    path: str
    reasons: tuple[str, ...]
    """What each decoder said."""


class SkipLedger:
    """Collects skips, each sample once, and ends the run when they exceed the budget.

    Args:
        num_samples: how many samples there are in all.
        budget: the largest accepted share of skips.
        stage: for messages.
    """

    def __init__(self, *, num_samples: int, budget: float, stage: str) -> None:
        self._num_samples, self._budget, self._stage = num_samples, budget, stage
        self._skips: dict[str, Skip] = {}
        self.fallbacks: Counter[str] = Counter()
        """How many samples each decoder other than the first one read."""

    def add(self, skip: Skip) -> None:
        """Note a skip.

        Raises:
            SkipBudgetExceeded: when this one is too many; with the counts by reason.
        """
        self._skips[skip.sample_id] = skip
        if len(self._skips) > self._budget * self._num_samples:
            raise SkipBudgetExceeded(
                f"{self._stage}: {len(self._skips)} of {self._num_samples} samples are unreadable, more than the "
                f"budget of {self._budget:.1%}:\n" + "\n".join(f"    {line}" for line in self.summary()),
                fix="Look at the files, or raise data.skip_budget if this is expected.",
            )

    def extend(self, skips: Iterable[Skip]) -> None:
        """Note several skips."""
        for skip in skips:
            self.add(skip)

    @property
    def skips(self) -> list[Skip]:
        """All skips, by sample id."""
        return [self._skips[sample_id] for sample_id in sorted(self._skips)]

    def summary(self, limit: int = 8) -> list[str]:
        """Counts by last reason, the most frequent first, each with one example."""
        by_reason: dict[str, list[Skip]] = {}
        for skip in self.skips:
            by_reason.setdefault(skip.reasons[-1] if skip.reasons else "unknown", []).append(skip)
        ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
        lines = [f"{len(skips)} x {reason} (e.g. {skips[0].path})" for reason, skips in ordered[:limit]]
        return lines + ([f"... and {len(ordered) - limit} other reasons"] if len(ordered) > limit else [])

    def write(self, folder: Path) -> str:
        """Write `skips.jsonl` into a folder; returns its name."""
        write_skips(folder / LEDGER_NAME, self.skips)
        return LEDGER_NAME


def write_skips(path: Path, skips: Iterable[Skip]) -> None:
    """Write a ledger file."""
    lines = [json.dumps(asdict(skip), ensure_ascii=False) + "\n" for skip in skips]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_skips(path: Path) -> list[Skip]:
    """Read a ledger file; none when it does not exist."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="\n") as file:  # splitlines() would also split at U+2028 inside a text
        values = [json.loads(line) for line in file]
    return [Skip(value["sample_id"], value["path"], tuple(value["reasons"])) for value in values]
