"""Sample ids as a column: a list to whoever reads them, found by hashes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.data import sample_ids
from cfvid.data.sample_ids import SampleIds

TEXTS = st.lists(st.text(max_size=3), max_size=30)


def chunked(ids: list[str], cut: int) -> pa.ChunkedArray:
    return pa.chunked_array([ids[:cut], ids[cut:]], pa.string())


@given(TEXTS, st.integers(0, 30))
def test_it_reads_as_the_list_it_was_made_of(texts: list[str], cut: int) -> None:
    for ids in (SampleIds(texts), SampleIds(chunked(texts, cut))):
        assert list(ids) == texts
        assert ids == texts
        assert [ids[row] for row in range(len(ids))] == texts
        assert ids[cut:] == texts[cut:]
        assert ids[:0] == []
        assert ids != [*texts, "more"]
    assert SampleIds(["a"]) != ["b"]


@given(st.lists(st.text(max_size=3), max_size=30, unique=True), TEXTS, st.integers(0, 30))
def test_ids_are_found_in_their_rows(texts: list[str], asked: list[str], cut: int) -> None:
    ids, rows = SampleIds(chunked(texts, cut)), {text: row for row, text in enumerate(texts)}
    expected = [rows.get(text, -1) for text in asked]
    assert ids.find(asked).tolist() == expected
    assert ids.find(SampleIds(asked)).tolist() == expected
    assert ids.find(SampleIds(texts)).tolist() == [*range(len(texts))]
    assert [text in ids for text in asked] == [row >= 0 for row in expected]
    known = [text for text in asked if text in rows]
    assert ids.rows(known).tolist() == [rows[text] for text in known]
    assert ids.take(ids.rows(known)) == known
    assert list(ids.each(ids.rows(known))) == known


def test_an_id_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="b"):
        SampleIds(["a", "c"]).rows(["c", "b", "a"])
    assert 3 not in SampleIds(["3"])


@pytest.mark.parametrize("num_hashes", [1, 3])
def test_equal_hashes_are_told_apart_by_their_text(monkeypatch: pytest.MonkeyPatch, num_hashes: int) -> None:
    texts = [f"s{n}" for n in range(20)]
    monkeypatch.setattr(
        sample_ids, "_hashes", lambda ids: np.array([int(i[1:]) % num_hashes for i in ids], dtype=np.int64)
    )
    ids = SampleIds(texts)
    assert ids.find([*reversed(texts), "s20", "s99"]).tolist() == [*reversed(range(20)), -1, -1]
    assert ids.repeated() == []
    assert sorted(SampleIds([*texts, "s7", "s7", "s0"]).repeated()) == ["s0", "s7"]


@given(TEXTS)
def test_repeated_ids(texts: list[str]) -> None:
    assert sorted(SampleIds(texts).repeated()) == sorted({text for text in texts if texts.count(text) > 1})


def test_looking_up_holds_no_python_strings() -> None:
    count = 100_000
    ids = SampleIds([f"train/class/{n:09d}.mp4" for n in range(count)])
    tracemalloc.start()
    assert ids.rows(ids[-3:]).tolist() == [count - 3, count - 2, count - 1]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20 * count  # a dict of them alone takes 80 bytes each


@pytest.mark.slow
def test_more_text_than_a_column_of_strings_can_hold() -> None:
    """A column of Arrow's `string` ends at 2 GiB: at 50 million ids of 45 letters."""
    parts = ([f"{i:09d}" + "x" * 1_000_000 for i in range(start, start + 100)] for start in range(0, 2200, 100))
    ids = SampleIds(pa.chunked_array(map(pa.array, parts)))
    assert ids.num_bytes > 2**31
    rows = np.array([2199, 0, 1234])
    taken = ids.take(rows)
    assert [sample_id[:9] for sample_id in taken] == ["000002199", "000000000", "000001234"]
    np.testing.assert_array_equal(ids.rows(taken), rows)
    assert ids.repeated() == []
