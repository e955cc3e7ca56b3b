"""What the batches of a training are: which samples, in which order, how many in each, and whose share they are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cfvid import ranks
from cfvid.data.loader import Batch, SampleLoader
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import ConfigError, DataError
from cfvid.modalities.base import Modality
from cfvid.parts import evenly
from cfvid.sections.training import FEWEST
from cfvid.seeds import derive, stream
from cfvid.training.objective import Objective


@dataclass(frozen=True)
class TrainingData:
    """Samples with what to learn from them, in a reproducible order.

    Every draw is keyed by (seed, stage, epoch, sample), so that an epoch can be entered in its middle.
    """

    loader: SampleLoader
    objective: Objective
    modality: Modality
    ids: SampleIds
    seed: int
    stage: str
    batch_size: int
    """Of all processes together."""
    groups_N: np.ndarray | None = None
    """With the group of each sample, an epoch draws all groups equally often instead of every sample once."""

    def __post_init__(self) -> None:
        if len(self.ids) < 2:
            raise DataError(
                f"{self.stage}: {len(self.ids)} sample(s) to train on; at least 2 are needed.",
                why="batch normalisation has no statistics over one sample",
                fix="Check the source and its train split.",
            )
        check_batches(self.stage, self.batch_size, num_processes=ranks.count())

    @functools.cached_property
    def batch_sizes(self) -> list[int]:
        """Samples of each batch of an epoch, of all processes together.

        Every sample comes once, in as few batches as hold them, which are of one size or differ by one sample. A last
        batch of what is left over could be of two samples, whose noise would move the weights as far as a whole
        batch does; to leave it out, as is also usual, would take less than each sample per epoch.
        """
        return evenly(len(self.ids), self.batch_size, fewest=FEWEST)

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return len(self.batch_sizes)

    def epoch(self, number: int, *, first_batch: int) -> Iterator[Batch]:
        """This process' part of the batches of an epoch from `first_batch` on."""
        rng = stream(self.seed, self.stage, "order", number)
        if self.groups_N is None:
            rows = rng.permutation(len(self.ids))
            repeats = np.zeros(len(rows), dtype=np.int8)
        else:
            drawn = balanced(self.groups_N, rng)
            rows = drawn[rng.permutation(len(drawn))]
            repeats = count_repeats(rows)
        ends = itertools.accumulate(self.batch_sizes)
        batches = [*zip(ends, self.batch_sizes, strict=True)][first_batch:]
        parts = [own_places(end - size, size) for end, size in batches]
        own = np.concatenate([np.arange(part.start, part.stop) for part in parts]) if parts else np.arange(0)
        ids, repeats = self.ids.take(rows[own]), repeats[own]
        # Without repeats, which only balanced epochs have, the names of the draw are those they always were.
        seeds = (
            derive(self.seed, self.stage, "augment", number, sample_id, *([int(nth)] if nth else []))
            for sample_id, nth in zip(ids, repeats, strict=True)
        )
        return self.loader.batches(
            ids,
            batch_size=max(1, self.batch_size // ranks.count()),
            look="train",
            seeds=seeds,
            sizes=[len(part) for part in parts],
            epoch=number,
        )


def check_batches(what: str, batch_size: int, *, num_processes: int) -> None:
    """Look whether each process gets enough of each batch.

    Args:
        what: is trained, for the message.
        batch_size: of all processes together.
        num_processes: that divide it.

    Raises:
        ConfigError: when they do not.
    """
    if batch_size < FEWEST * num_processes:
        raise ConfigError(
            f"{what}: batches of {batch_size} cannot be divided among {num_processes} processes.",
            why=f"batch_size counts the samples of all processes, each of which needs at least {FEWEST} of them for "
            "batch normalisation",
            fix="Raise the batch size (of no more samples than there are), or start fewer processes.",
        )


def own_places(start: int, num: int) -> range:
    """This process' part of a batch of `num` samples, of which the first has the place `start`."""
    own = ranks.own_part(num, smallest=FEWEST)
    return range(start + own.start, start + own.stop)


def balanced(groups_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are samples, with every group equally often, or once more where that does not come out.

    This is how DeepCluster samples its clusters (Caron et al., ECCV 2018): a group's samples are drawn repeatedly
    only when it has fewer than are needed.
    """
    by_group = np.argsort(groups_N, kind="stable")
    _, starts = np.unique(groups_N[by_group], return_index=True)
    members = np.split(by_group, starts[1:])
    each, rest = divmod(len(groups_N), len(members))
    drawn = []
    for place, group in enumerate(rng.permutation(len(members))):
        own, count = members[group], each + (place < rest)
        drawn.append(own[rng.choice(len(own), size=count, replace=count > len(own))])
    return np.concatenate(drawn)


def count_repeats(rows: np.ndarray) -> np.ndarray:
    """How often each row has come before."""
    by_row = np.argsort(rows, kind="stable")
    _, starts, counts = np.unique(rows[by_row], return_index=True, return_counts=True)
    repeats = np.empty_like(rows)
    repeats[by_row] = np.arange(len(rows)) - np.repeat(starts, counts)
    return repeats
