"""The skip ledger: one line for every sample that could not be read, and the budget that ends a run.

skips.jsonl     {"sample_id": ..., "path": ..., "reasons": ["decord: ...", "pyav: ..."]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
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

    With a file, every skip is in it at once, whatever becomes of the process; what an earlier attempt noted there
    stays noted, but counts against the budget only when it is met again, since files can be mended in between.

    Args:
        num_samples: how many samples there are in all.
        budget: the largest accepted share of skips.
        stage: for messages.
        path: the ledger's file; none for a ledger in memory.
    """

    def __init__(self, *, num_samples: int, budget: float, stage: str, path: Path | None = None) -> None:
        self._num_samples, self._budget, self._stage, self._path = num_samples, budget, stage, path
        self._skips: dict[str, Skip] = {}
        self._noted_before = {skip.sample_id: skip for skip in read_skips(path)} if path else {}
        if path is not None and path.is_file():
            write_skips(path, self._noted_before.values())  # without the line that a kill may have cut short
        self.fallbacks: Counter[str] = Counter()
        """How many samples each decoder other than the first one read."""

    def add(self, skip: Skip) -> None:
        """Note a skip.

        Raises:
            SkipBudgetExceeded: when this one is too many; with the counts by reason.
        """
        if self._path is not None and skip.sample_id not in {**self._noted_before, **self._skips}:
            with open(self._path, "a", encoding="utf-8", newline="\n") as file:
                file.write(_line(skip))
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
        """All skips of this attempt, by sample id."""
        return _sorted(self._skips)

    def summary(self, limit: int = 8) -> list[str]:
        """Counts by last reason, the most frequent first, each with one example."""
        by_reason: dict[str, list[Skip]] = {}
        for skip in self.skips:
            by_reason.setdefault(skip.reasons[-1] if skip.reasons else "unknown", []).append(skip)
        ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
        lines = [f"{len(skips)} x {reason} (e.g. {skips[0].path})" for reason, skips in ordered[:limit]]
        return lines + ([f"... and {len(ordered) - limit} other reasons"] if len(ordered) > limit else [])

    def close(self) -> None:
        """Write the file anew: all attempts' skips, by sample id."""
        if self._path is not None:
            write_skips(self._path, _sorted({**self._noted_before, **self._skips}))


def _sorted(skips: Mapping[str, Skip]) -> list[Skip]:
    return [skips[sample_id] for sample_id in sorted(skips)]


def write_skips(path: Path, skips: Iterable[Skip]) -> None:
    """Write a ledger file."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(map(_line, skips)), encoding="utf-8")


def _line(skip: Skip) -> str:
    return json.dumps(asdict(skip), ensure_ascii=False) + "\n"


def read_skips(path: Path) -> list[Skip]:
    """Read a ledger file; none when it does not exist. A line that a kill cut short is left out."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="\n") as file:  # splitlines() would also split at U+2028 inside a text
        values = [json.loads(line) for line in file if line.endswith("\n")]
    return [Skip(value["sample_id"], value["path"], tuple(value["reasons"])) for value in values]
