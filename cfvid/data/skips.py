"""The skip ledger: one line for every sample that could not be read, and the budget that ends a run.

skips.jsonl     {"sample_id": ..., "path": ..., "reasons": ["decord: ...", "pyav: ..."]}

While a stage works, lines also say what exactly was tried (`identity`) and in which epoch: neither a later epoch nor a
resumed attempt tries it again while it is the same. Of several processes each notes what it meets; from time to time
they tell each other, and when all of it is too much they stop together.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cfvid import ranks
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
    identity: str | None = None
    """Identifies the file as it was, and how it was read; None where nothing tells whether it has changed."""
    epoch: int = 0
    """The epoch of a training in which the sample was met first, from 0."""


class SkipLedger:
    """Collects skips, each sample once, and ends the run when they exceed the budget.

    With a file, every skip of the main process is in it at once, whatever becomes of the process, and those of others
    are after the next `join`. What an earlier attempt noted there stays noted; it counts against the budget when it is
    still so (see `recall`), or is met again.

    Args:
        num_samples: how many samples there are in all.
        budget: the largest accepted share of skips.
        stage: for messages.
        path: the ledger's file; none for a ledger in memory.
        in_step: several processes work step by step, so that none may stop by itself: only `join` does, all together.
        fresh: what earlier attempts noted is tried again, and does not count before.
        memory: what other ledgers of this process have met, by look and sample id; takes what this one meets.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        budget: float,
        stage: str,
        path: Path | None = None,
        in_step: bool = False,
        fresh: bool = False,
        memory: dict[tuple[str, str], Skip] | None = None,
    ) -> None:
        self._num_samples, self._budget, self._stage, self._path = num_samples, budget, stage, path
        self._in_step, self._memory = in_step, {} if memory is None else memory
        self._skips: dict[str, Skip] = {}
        self._untold: list[Skip] = []
        """What the other processes have not been told of."""
        self._told: set[str] = set()
        """The samples of which all processes know: what they decide together is decided by these."""
        self._lock = threading.Lock()
        """Batches are put together by another thread where there is a GPU."""
        self._num_recalled = 0
        self._noted = {skip.sample_id: skip for skip in read_skips(path)} if path else {}
        if fresh:
            self._noted = {name: replace(skip, identity=None) for name, skip in self._noted.items()}
        if path is not None and path.is_file():
            _write(path, map(_working_line, self._noted.values()))  # without the line that a kill may have cut short
        self.fallbacks: Counter[str] = Counter()
        """How many samples each decoder other than the first one read."""

    def recall(self, is_same: Callable[[Skip], bool]) -> None:
        """Count what earlier attempts could not read, where that is still the same; the main process looks for all.

        Args:
            is_same: whether a skip's file is as it was, and would be read as it was.

        Raises:
            SkipBudgetExceeded: when that is too much already; in all processes.
        """
        for skip in ranks.from_main([skip for skip in self._noted.values() if is_same(skip)]):
            self._skips[skip.sample_id] = skip
        self._told = set(self._skips)
        self._num_recalled = len(self._told)
        self._stop_if_exceeded(len(self._told))

    def add(self, skip: Skip) -> None:
        """Note a skip.

        Raises:
            SkipBudgetExceeded: when this one is too many; with the counts by reason. Not while several processes work
                step by step.
        """
        with self._lock:
            noted = self._note(skip)
            if ranks.count() > 1:
                self._untold.append(noted)
        if not (self._in_step and ranks.count() > 1):
            self._stop_if_exceeded(len(self._skips))

    def extend(self, skips: Iterable[Skip]) -> None:
        """Note several skips."""
        for skip in skips:
            self.add(skip)

    def _note(self, skip: Skip) -> Skip:
        before = self._noted.get(skip.sample_id)
        if before is not None and skip.identity in (None, before.identity):
            skip = replace(skip, identity=before.identity, epoch=before.epoch)
        if self._path is not None and (before is None or before.identity != skip.identity):
            with open(self._path, "a", encoding="utf-8", newline="\n") as file:
                file.write(_working_line(skip))
        self._noted[skip.sample_id] = self._skips[skip.sample_id] = skip
        return skip

    def remember(self, skip: Skip, *, look: str) -> None:
        """Let other ledgers of this process know of a look that is the same whenever it is made."""
        if skip.identity is not None:
            self._memory[look, skip.sample_id] = skip

    def known(self, sample_id: str, *, look: str, before_epoch: int | None) -> Skip | None:
        """What was found out about a sample that is not to be tried again, as long as its identity is the same.

        Args:
            sample_id: of the sample.
            look: that is due.
            before_epoch: look only at what was met in earlier epochs, so that a resumed epoch is what it was; None for
                looks that are the same whenever they are made.
        """
        found = self._skips.get(sample_id)
        if found is None and before_epoch is None:
            found = self._memory.get((look, sample_id))
        if found is None or found.identity is None or (before_epoch is not None and found.epoch >= before_epoch):
            return None
        return found

    # ------------------------------------------------------------------------------------------ several processes

    def may_exceed(self, num_untold: float) -> bool:
        """Whether there may be too many skips, if all processes together have so many that were not told of yet."""
        return len(self._told) + num_untold > self._budget * self._num_samples

    @property
    def num_untold(self) -> int:
        """How many skips of this process the others have not been told of."""
        return len(self._untold)

    def join(self) -> None:
        """Tell the other processes what this one could not read, and hear it of them; all call it at the same place.

        Raises:
            SkipBudgetExceeded: when all of it is too much; in all processes, with the counts by reason.
        """
        if ranks.count() > 1:
            with self._lock:
                untold, self._untold = self._untold, []
            told = ranks.everywhere(untold)
            with self._lock:
                for skip in (skip for of_one in told for skip in of_one):
                    self._note(skip)
                    self._told.add(skip.sample_id)
        self._stop_if_exceeded(len(self._told if ranks.count() > 1 else self._skips))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """What is done inside, each process does by itself; one that meets too many skips ends it, and all `join`.

        Raises:
            SkipBudgetExceeded: as `join`.
        """
        try:
            yield
        except SkipBudgetExceeded:
            if ranks.count() == 1:
                raise
        self.join()

    def _stop_if_exceeded(self, num: int) -> None:
        if num > self._budget * self._num_samples:
            known = f" ({self._num_recalled} of them since an earlier attempt)" if self._num_recalled else ""
            raise SkipBudgetExceeded(
                f"{self._stage}: {num} of {self._num_samples} samples are unreadable{known}, more than "
                f"the budget of {self._budget:.1%}:\n" + "\n".join(f"    {line}" for line in self.summary()),
                fix="Look at the files, of which those that have changed are tried again; raise data.skip_budget if "
                "this is expected; or try all of them again with --fresh.",
            )

    # ------------------------------------------------------------------------------------------ what is in it

    @property
    def skips(self) -> list[Skip]:
        """All that count, by sample id."""
        with self._lock:
            return _sorted(self._skips)

    def of(self, sample_ids: Iterable[str]) -> list[Skip]:
        """The skips of these samples, by sample id."""
        return [self._skips[sample_id] for sample_id in sorted(sample_ids) if sample_id in self._skips]

    def summary(self, limit: int = 8) -> list[str]:
        """Counts by last reason, the most frequent first, each with one example."""
        by_reason: dict[str, list[Skip]] = {}
        for skip in self.skips:
            by_reason.setdefault(skip.reasons[-1] if skip.reasons else "unknown", []).append(skip)
        ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
        lines = [f"{len(skips)} x {reason} (e.g. {skips[0].path})" for reason, skips in ordered[:limit]]
        return lines + ([f"... and {len(ordered) - limit} other reasons"] if len(ordered) > limit else [])

    def close(self) -> None:
        """Write the file anew, when the stage's work is done: all attempts' skips, by sample id."""
        if self._path is not None:
            write_skips(self._path, _sorted({**self._noted, **self._skips}))


def _sorted(skips: Mapping[str, Skip]) -> list[Skip]:
    return [skips[sample_id] for sample_id in sorted(skips)]


def write_skips(path: Path, skips: Iterable[Skip]) -> None:
    """Write a ledger file as it stays: nothing in it depends on times or on the machine."""
    _write(path, (_line({**asdict(skip), "identity": None}) for skip in skips))


def _write(path: Path, lines: Iterable[str]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _working_line(skip: Skip) -> str:
    return _line(asdict(skip))


def _line(value: dict[str, object]) -> str:
    if value["identity"] is None:
        value = {name: value[name] for name in ("sample_id", "path", "reasons")}
    return json.dumps(value, ensure_ascii=False) + "\n"


def read_skips(path: Path) -> list[Skip]:
    """Read a ledger file; none when it does not exist. A line that a kill cut short is left out."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="\n") as file:  # splitlines() would also split at U+2028 inside a text
        values = [json.loads(line) for line in file if line.endswith("\n")]
    return [Skip(**{**value, "reasons": tuple(value["reasons"])}) for value in values]
