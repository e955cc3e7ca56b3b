"""What processes tell each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.team import Team

from cfvid import ranks


def test_alone_nothing_is_shared() -> None:
    assert (ranks.count(), ranks.rank(), ranks.is_main()) == (1, 0, True)
    assert ranks.from_main("x") == "x"
    assert ranks.gathered(3) == ranks.everywhere(3) == [3]
    np.testing.assert_array_equal(ranks.summed([1.5, 2]), [1.5, 2])
    assert ranks.own_part(7) == slice(0, 7)
    with ranks.alone() as is_main:
        assert is_main


@pytest.mark.parametrize("size", [2, 3])
def test_everyone_hears_the_same(team: Team, tmp_path: Path, size: int) -> None:
    assert team.run("collectives", tmp_path, size=size) == [0] * size
    heard = [json.loads((tmp_path / f"heard{rank}.json").read_text()) for rank in range(size)]
    assert [h["rank"] for h in heard] == list(range(size))
    assert {h["from_main"] for h in heard} == {"said by 0"}
    assert heard[0]["gathered"] == list(range(size))
    assert all(h["gathered"] == [] for h in heard[1:])
    assert all(h["everywhere"] == [10 * rank for rank in range(size)] for h in heard)
    assert all(h["summed"] == [size, sum(range(size))] for h in heard)
    sizes, few, one = heard[0]["shares"]
    assert (sum(sizes), max(sizes) - min(sizes)) == (7, 1)
    assert few == [3] + [0] * (size - 1)
    assert one == [1] + [0] * (size - 1)
    assert [h["part"][0] for h in heard[1:]] == [h["part"][1] for h in heard[:-1]]
    assert (heard[0]["part"][0], heard[-1]["part"][1]) == (0, 7)
    assert [h["alone"] for h in heard] == [[True, 1, 0]] + [[False]] * (size - 1)
