"""Labels as columns: a mapping to whoever reads it, and the same as of a dict of tuples."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.data import sample_labels
from cfvid.data.sample_ids import SampleIds
from cfvid.data.sample_labels import SampleLabels

NAMES = st.lists(st.sampled_from(["a", "b", "é", "z z", ""]), max_size=4)
LABELS = st.dictionaries(st.text(max_size=3), NAMES, max_size=20)


def plain(labels: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """What stays of them: each label once, in the order of the first time."""
    return {sample_id: tuple(dict.fromkeys(names)) for sample_id, names in labels.items() if names}


@given(LABELS, st.integers(0, 20))
def test_it_reads_as_the_dict_it_was_made_of(labels: dict[str, list[str]], cut: int) -> None:
    names = [*labels.values()]
    lists = pa.chunked_array([names[:cut], names[cut:]], pa.list_(pa.large_string()))
    expected = plain(labels)
    for found in (SampleLabels.of_mapping(labels), SampleLabels.of_column(SampleIds(labels), lists)):
        assert found == expected
        assert list(found.items()) == list(expected.items())
        assert list(found.values()) == list(expected.values())
        assert {sample_id: found[sample_id] for sample_id in found} == expected
        assert found.of([*expected][::-1]) == [*expected.values()][::-1]
        assert found.classes == sorted({name for names in expected.values() for name in names})
        assert list(found.with_several()) == [i for i, names in expected.items() if len(names) > 1]
        assert ("not there" in found, found.get("not there")) == (False, None)


@given(LABELS, st.sets(st.sampled_from(["a", "b", "é", "other"])))
def test_labels_among_some_classes(labels: dict[str, list[str]], classes: set[str]) -> None:
    kept = {i: tuple(name for name in names if name in classes) for i, names in plain(labels).items()}
    found = SampleLabels.of_mapping(labels).among(sorted(classes))
    assert list(found.items()) == [(i, names) for i, names in kept.items() if names]
    assert found.classes == sorted({name for names in kept.values() for name in names})


def test_sets_are_rows_of_indices_that_become_those_of_other_classes() -> None:
    labels = SampleLabels.of_mapping({"x": ("c", "a"), "y": ("b",), "z": ("a", "b", "c")})
    assert labels.sets(["y", "x", "y"]).tolist() == [[1, -1], [2, 0], [1, -1]]
    assert labels.numbers_in(["c", "q", "b", "a"])[labels.sets(["x", "y"])].tolist() == [[0, 3], [2, -1]]
    assert labels.sets([]).shape == (0, 1)
    with pytest.raises(KeyError, match="nobody"):
        labels.sets(["x", "nobody"])
    with pytest.raises(KeyError, match="b"):
        labels.numbers_in(["a", "c"])


def test_blocks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_labels, "_BLOCK", 2)
    labels = {"x": ("c", "a"), "y": ("b",), "z": ("a", "b", "c")}
    found = SampleLabels.of_mapping(labels)
    assert dict(found.items()) == labels
    blocks = [(ids.to_pylist(), lists.to_pylist()) for ids, lists in found.blocks()]
    assert blocks == [(["x", "y"], [["c", "a"], ["b"]]), (["z"], [["a", "b", "c"]])]


def test_a_label_takes_a_few_bytes() -> None:
    num = 100_000
    ids = SampleIds(f"{i:09d}" for i in range(num))
    lists = pa.chunked_array([[[f"class {i % 1000}"] for i in range(num)]], pa.list_(pa.large_string()))
    ids.rows(ids[:1][:])
    tracemalloc.start()
    labels = SampleLabels.of_column(ids, lists)
    labels.sets(ids[5:9])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / num < 16
    np.testing.assert_array_equal(labels.counts(), np.ones(num))


def test_labels_of_some_rows_under_other_ids() -> None:
    labels = SampleLabels.of_mapping({"x": ("c", "a"), "y": ("b",), "z": ("d", "c")})
    found = labels.renamed(np.array([2, 0, 2]), SampleIds(["1", "2", "3"]))
    assert found == {"1": ("d", "c"), "2": ("c", "a"), "3": ("d", "c")}
    assert found.classes == ["a", "c", "d"]
    assert labels.renamed(np.array([], np.int64), SampleIds([])) == {}
