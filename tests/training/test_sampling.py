"""Which samples an epoch takes, in which order, with which draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cfvid.data.sample_ids import SampleIds
from cfvid.parts import evenly
from cfvid.seeds import derive, stream
from cfvid.training.batches import TrainingData, balanced, count_repeats

IDS = SampleIds([f"s{i:02d}" for i in range(30)])
GROUPS_N = np.repeat([0, 1, 2], [24, 4, 2])
GROUPS = dict(zip(IDS, GROUPS_N.tolist(), strict=True))


def data_of(num: int, *, batch_size: int) -> TrainingData:
    parts: Any = {"loader": Asked(), "objective": None, "modality": None}
    return TrainingData(
        **parts, ids=SampleIds([f"s{i:05d}" for i in range(num)]), seed=7, stage="retrain", batch_size=batch_size
    )


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
    for first_batch, num_before in ((1, 8), (2, 16), (3, 23)):  # batches of 8, 8, 7, 7
        assert epoch(3, first_batch=first_batch, groups_N=groups_N) == whole[num_before:]
    assert epoch(4, groups_N=groups_N) != whole


def test_without_groups_every_sample_comes_once_with_the_draws_it_always_had() -> None:
    asked = epoch(2)
    order = stream(7, "retrain", "order", 2).permutation(30)
    assert asked == [(IDS[i], derive(7, "retrain", "augment", 2, IDS[i])) for i in order]


@pytest.mark.parametrize(
    ("num", "batch_size", "expected"),
    [
        (10_002, 100, [100] * 3 + [99] * 98),  # not 100 batches of 100, and one of 2
        (10_001, 100, [100] * 2 + [99] * 99),  # none is left out, either
        (32, 8, [8] * 4),
        (9, 8, [5, 4]),
        (7, 8, [7]),
        (3, 2, [3]),
        (5, 2, [3, 2]),
    ],
)
def test_no_batch_is_a_small_rest(num: int, batch_size: int, expected: list[int]) -> None:
    """Point 13: the two samples that were left over made a step as large as that of a whole batch."""
    data = data_of(num, batch_size=batch_size)
    assert data.batch_sizes == expected
    assert data.num_batches == len(expected)
    drawn = [sample_id for sample_id, _ in data.epoch(0, first_batch=0)]  # type: ignore[misc]
    assert sorted(drawn) == list(data.ids)


def test_parts_are_even() -> None:
    for num in range(1, 60):
        for most in range(1, 20):
            for fewest in (1, 2):
                parts = evenly(num, most, fewest=fewest)
                assert sum(parts) == num
                assert max(parts) - min(parts) <= 1
                assert parts == sorted(parts, reverse=True)
                assert min(parts) >= min(num, fewest)
                assert max(parts) <= max(most, 2 * fewest - 1)
