"""Which samples an epoch takes, in which order, with which draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cfvid.data.sample_ids import SampleIds
from cfvid.seeds import derive, stream
from cfvid.training.loop import TrainingData, balanced, count_repeats

IDS = SampleIds([f"s{i:02d}" for i in range(30)])
GROUPS_N = np.repeat([0, 1, 2], [24, 4, 2])
GROUPS = dict(zip(IDS, GROUPS_N.tolist(), strict=True))


class Asked:
    """Stands in for a loader and tells what it was asked for."""

    def batches(self, ids: Sequence[str], *, seeds: Sequence[int], **_: Any) -> list[tuple[str, int]]:
        return list(zip(ids, seeds, strict=True))


def epoch(number: int, *, first_batch: int = 0, groups_N: np.ndarray | None = None) -> list[Any]:
    parts = SimpleNamespace(loader=Asked(), objective=None, modality=None)
    data = TrainingData(**vars(parts), ids=IDS, seed=7, stage="retrain", batch_size=8, groups_N=groups_N)
    return list(data.epoch(number, first_batch=first_batch))


def test_every_group_is_drawn_equally_often() -> None:
    asked = epoch(0, groups_N=GROUPS_N)
    assert Counter(GROUPS[sample_id] for sample_id, _ in asked) == {0: 10, 1: 10, 2: 10}
    of_the_largest = [sample_id for sample_id, _ in asked if GROUPS[sample_id] == 0]
    assert len(set(of_the_largest)) == 10  # enough members: none is drawn twice


def test_counts_differ_by_one_where_they_do_not_come_out() -> None:
    drawn = balanced(np.arange(29) % 4, np.random.default_rng(0))
    assert len(drawn) == 29
    assert sorted(Counter((drawn % 4).tolist()).values()) == [7, 7, 7, 8]


def test_repeats_are_counted_in_the_order_of_the_draw() -> None:
    assert count_repeats(np.array([5, 2, 5, 5, 0, 2])).tolist() == [0, 0, 1, 2, 0, 1]


def test_a_sample_that_comes_again_looks_different() -> None:
    asked = epoch(0, groups_N=GROUPS_N)
    assert len({sample_id for sample_id, _ in asked}) < len(asked)
    assert len({seed for _, seed in asked}) == len(asked)


@pytest.mark.parametrize("groups_N", [None, GROUPS_N])
def test_an_epoch_can_be_entered_in_its_middle(groups_N: np.ndarray | None) -> None:
    whole = epoch(3, groups_N=groups_N)
    for first_batch in (1, 2, 3):
        assert epoch(3, first_batch=first_batch, groups_N=groups_N) == whole[first_batch * 8 :]
    assert epoch(4, groups_N=groups_N) != whole


def test_without_groups_every_sample_comes_once_with_the_draws_it_always_had() -> None:
    asked = epoch(2)
    order = stream(7, "retrain", "order", 2).permutation(30)
    assert asked == [(IDS[i], derive(7, "retrain", "augment", 2, IDS[i])) for i in order]
