"""The labels of samples as columns: pools of many millions cannot afford dicts of tuples of Python strings."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.data.sample_ids import SampleIds

_BLOCK = 2**16
"""Samples whose labels are Python strings at a time."""


class SampleLabels(Mapping[str, tuple[str, ...]]):
    """The labels of each labelled sample, by its id.

    Beside its id a label takes 4 bytes, and its sample 8. One lookup takes tens of microseconds: ask for many by `of`.

    Args:
        ids: of the N labelled samples.
        classes: all labels that occur, sorted.
        starts_N: int64, (N + 1,): where each sample's labels start in `indices`, and where the last one's end.
        indices: int32, (M,): the classes of the samples' labels, one after the other.
    """

    def __init__(self, ids: SampleIds, classes: Sequence[str], starts_N: np.ndarray, indices: np.ndarray) -> None:
        self.ids, self.classes, self.starts_N, self.indices = ids, list(classes), starts_N, indices

    @classmethod
    def of_mapping(cls, labels: Mapping[str, Sequence[str]]) -> SampleLabels:
        """Labels by sample id, whatever holds them; samples without any are left out."""
        if isinstance(labels, cls):
            return labels
        lists = pa.chunked_array([pa.array(map(list, labels.values()), pa.list_(pa.large_string()))])
        return cls.of_column(SampleIds(labels), lists)

    @classmethod
    def of_column(cls, ids: SampleIds, lists: pa.ChunkedArray) -> SampleLabels:
        """From a column of lists of text, one of each sample; a label that is there twice counts once."""
        lengths_N = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        names, indices = _coded(pc.list_flatten(lists))
        if lengths_N.max(initial=0) > 1:
            lengths_N, indices = _without_repeats(lengths_N, indices)
        labelled = np.flatnonzero(lengths_N)
        if len(labelled) < len(ids):
            ids, lengths_N = ids.take(labelled), lengths_N[labelled]
        return cls(ids, names, _starts(lengths_N), indices)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self.ids

    def __getitem__(self, sample_id: str) -> tuple[str, ...]:
        return self.of([sample_id])[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, {len(self.classes)} classes)"

    def of(self, ids: Sequence[str]) -> list[tuple[str, ...]]:
        """The labels of these samples, in their order.

        Raises:
            KeyError: with an id that has none.
        """
        return self._names(self.ids.rows(ids))

    def items(self) -> ItemsView[str, tuple[str, ...]]:
        """Each sample's id and labels, in blocks: not looked up one by one."""
        return _Items(self)

    def values(self) -> ValuesView[tuple[str, ...]]:
        """The labels of each sample, in blocks."""
        return _Values(self)

    def in_order(self) -> Iterator[tuple[str, ...]]:
        """See `values`."""
        for first in range(0, len(self), _BLOCK):
            yield from self._names(np.arange(first, min(first + _BLOCK, len(self))))

    def _names(self, rows_M: np.ndarray) -> list[tuple[str, ...]]:
        bounds = zip(self.starts_N[rows_M].tolist(), self.starts_N[rows_M + 1].tolist(), strict=True)
        return [tuple(self.classes[i] for i in self.indices[first:end].tolist()) for first, end in bounds]

    def counts(self) -> np.ndarray:
        """How many labels each sample has: int64 (N,), at least 1."""
        return np.diff(self.starts_N)

    def with_several(self) -> SampleIds:
        """The ids of the samples that have several labels."""
        return self.ids.take(np.flatnonzero(self.counts() > 1))

    def among(self, classes: Sequence[str]) -> SampleLabels:
        """The labels that are among these classes; samples without one are left out."""
        known = set(classes)
        if known.issuperset(self.classes):
            return self
        is_kept = np.array([name in known for name in self.classes], dtype=bool)[self.indices]
        owners = np.repeat(np.arange(len(self)), self.counts())[is_kept]
        counts_N = np.bincount(owners, minlength=len(self))
        labelled, names = np.flatnonzero(counts_N), [name for name in self.classes if name in known]
        places = np.cumsum([name in known for name in self.classes], dtype=np.int32) - 1
        indices = places[self.indices[is_kept]]
        return SampleLabels(self.ids.take(labelled), names, _starts(counts_N[labelled]), indices)

    def renamed(self, rows: np.ndarray, ids: SampleIds) -> SampleLabels:
        """The labels in these rows, int64 (M,), under other ids, M of them."""
        counts_M = self.counts()[rows]
        starts_M = _starts(counts_M)
        places = np.arange(starts_M[-1]) + np.repeat(self.starts_N[rows] - starts_M[:-1], counts_M)
        used, indices = np.unique(self.indices[places], return_inverse=True)
        return SampleLabels(ids, [self.classes[i] for i in used], starts_M, indices.astype(np.int32))

    def sets(self, ids: Sequence[str]) -> np.ndarray:
        """The labels of these samples as places in `classes`: int64 (len(ids), L), after a sample's labels -1.

        Raises:
            KeyError: with an id that has none.
        """
        rows_M = self.ids.rows(ids)
        firsts_M, ends_M = self.starts_N[rows_M], self.starts_N[rows_M + 1]
        places_ML = firsts_M[:, None] + np.arange((ends_M - firsts_M).max(initial=1))
        is_label_ML = places_ML < ends_M[:, None]
        sets_ML = np.full(places_ML.shape, -1, dtype=np.int64)
        sets_ML[is_label_ML] = self.indices[places_ML[is_label_ML]]
        return sets_ML

    def numbers_in(self, classes: Sequence[str]) -> np.ndarray:
        """Where each of `classes` is among others, and -1 in the end: what turns `sets` into theirs.

        Raises:
            KeyError: with a class that is not among them.
        """
        index = {name: i for i, name in enumerate(classes)}
        return np.array([*(index[name] for name in self.classes), -1], dtype=np.int64)

    def blocks(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Ids and lists of labels as text, a number of samples at a time."""
        classes = pa.array(self.classes, pa.string())
        for first in range(0, len(self), _BLOCK):
            starts_B = self.starts_N[first : first + _BLOCK + 1]
            names = classes.take(pa.array(self.indices[starts_B[0] : starts_B[-1]]))
            ids = self.ids[first : first + _BLOCK].column.cast(pa.string()).combine_chunks()
            yield ids, pa.ListArray.from_arrays(pa.array(starts_B - starts_B[0], pa.int32()), names)


class _Items(ItemsView[str, tuple[str, ...]]):
    _mapping: SampleLabels

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return zip(self._mapping.ids, self._mapping.in_order(), strict=True)


class _Values(ValuesView[tuple[str, ...]]):
    _mapping: SampleLabels

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return self._mapping.in_order()


def _coded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """All texts that occur, sorted, and each one's place among them: int32 (M,)."""
    coded = column.dictionary_encode().unify_dictionaries()
    found: list[str] = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
    order = sorted(range(len(found)), key=found.__getitem__)
    places = np.empty(len(found), dtype=np.int32)
    places[order] = np.arange(len(found))
    indices = [places[chunk.indices.to_numpy()] for chunk in coded.chunks]
    return [found[place] for place in order], np.concatenate([np.empty(0, np.int32), *indices])


def _starts(lengths_N: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths_N, dtype=np.int64)])


def _without_repeats(lengths_N: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    owners = np.repeat(np.arange(len(lengths_N)), lengths_N)
    order = np.lexsort((indices, owners))  # stable: of equal ones the first comes first
    again = np.zeros(len(indices), dtype=bool)
    again[order[1:]] = (owners[order[1:]] == owners[order[:-1]]) & (indices[order[1:]] == indices[order[:-1]])
    return np.bincount(owners[~again], minlength=len(lengths_N)), indices[~again]
