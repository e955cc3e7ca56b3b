"""Which samples an epoch takes, in which order, with which draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cfvid.seeds import derive, stream
from cfvid.training.loop import TrainingData, balanced

IDS = [f"s{i:02d}" for i in range(30)]
GROUPS = {sample_id: 0 if i < 24 else 1 if i < 28 else 2 for i, sample_id in enumerate(IDS)}  # 24, 4 and 2 samples


class Asked:
    """Stands in for a loader and tells what it was asked for."""

    def batches(self, ids: Sequence[str], *, seeds: Sequence[int], **_: Any) -> list[tuple[str, int]]:
        return list(zip(ids, seeds, strict=True))


def epoch(number: int, *, first_batch: int = 0, groups: dict[str, int] | None = None) -> list[Any]:
    parts = SimpleNamespace(loader=Asked(), objective=None, modality=None)
    data = TrainingData(**vars(parts), ids=IDS, seed=7, stage="retrain", batch_size=8, groups=groups)
    return list(data.epoch(number, first_batch=first_batch))


def test_every_group_is_drawn_equally_often() -> None:
    asked = epoch(0, groups=GROUPS)
    assert Counter(GROUPS[sample_id] for sample_id, _ in asked) == {0: 10, 1: 10, 2: 10}
    of_the_largest = [sample_id for sample_id, _ in asked if GROUPS[sample_id] == 0]
    assert len(set(of_the_largest)) == 10  # enough members: none is drawn twice


def test_counts_differ_by_one_where_they_do_not_come_out() -> None:
    drawn = balanced(IDS[:29], {i: n % 4 for n, i in enumerate(IDS)}, np.random.default_rng(0))
    assert len(drawn) == 29
    assert sorted(Counter(IDS.index(i) % 4 for i in drawn).values()) == [7, 7, 7, 8]


def test_a_sample_that_comes_again_looks_different() -> None:
    asked = epoch(0, groups=GROUPS)
    assert len({sample_id for sample_id, _ in asked}) < len(asked)
    assert len({seed for _, seed in asked}) == len(asked)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_an_epoch_can_be_entered_in_its_middle(groups: dict[str, int] | None) -> None:
    whole = epoch(3, groups=groups)
    for first_batch in (1, 2, 3):
        assert epoch(3, first_batch=first_batch, groups=groups) == whole[first_batch * 8 :]
    assert epoch(4, groups=groups) != whole


def test_without_groups_every_sample_comes_once_with_the_draws_it_always_had() -> None:
    asked = epoch(2)
    order = stream(7, "retrain", "order", 2).permutation(30)
    assert asked == [(IDS[i], derive(7, "retrain", "augment", 2, IDS[i])) for i in order]
