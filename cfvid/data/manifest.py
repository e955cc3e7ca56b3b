"""The manifest: which samples there are. Everything else joins to it by `sample_id`."""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from cfvid.artifacts import atomic_file, contained, digest_of_columns
from cfvid.data.sample_ids import SampleIds
from cfvid.data.sample_labels import SampleLabels
from cfvid.errors import DamagedArtifact, DataError
from cfvid.media.source import Member, below, is_url

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("path", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("root", pa.string()),
        ("unsure_labels", pa.list_(pa.string())),
        ("member_offset", pa.int64()),
        ("member_size", pa.int64()),
        ("group", pa.string()),
    ]
)
"""Labels are always lists, and each sample knows its root folder."""
_FEW_VALUES = pa.dictionary(pa.int32(), pa.string())
_IN_MEMORY = {
    **dict.fromkeys(("sample_id", "path"), pa.large_string()),
    **dict.fromkeys(("labels", "unsure_labels"), pa.list_(pa.large_string())),
    **dict.fromkeys(("split", "root", "group"), _FEW_VALUES),
}
"""Other types than in files: a column of `string` can hold 2 GiB of text."""
_PLACE = ("root", "member_offset", "member_size")
"""Columns that say where samples are stored, not which ones they are."""
LABEL_COLUMNS = ("sample_id", "labels")
"""That figures of agreement with labels need."""
TWIN_COLUMNS = ("sample_id", "root", "path", "start_s", "end_s")
"""That `twins` needs."""
BLOCK_ROWS = 2**16
"""Of a manifest that is read in blocks."""
MEMBER_MARK = ".tar!/"
"""In the path of a shard's member, between the shard and the member's name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a manifest."""

    sample_id: str
    path: str
    """Relative to `root`; of a shard's member `SHARD.tar!/NAME`."""
    root: str
    """A folder, or of shards behind a URL what that starts with."""
    labels: tuple[str, ...]
    split: str
    start_s: float | None
    end_s: float | None
    unsure_labels: tuple[str, ...] = ()
    """Classes that the sample is neither a positive nor a negative of, such as those of objects marked difficult."""
    member_offset: int | None = None
    """Of a shard's member: where its bytes start in the shard. None for files."""
    member_size: int | None = None
    """Of a shard's member: how many bytes it has."""
    group: str | None = None
    """What the sample has in common with others, such as the film that they were cut from; None where nothing is known.
    Samples of one group are no independent evidence."""


class Manifest:
    """An immutable table of samples with unique ids.

    Args:
        table: with the columns of `SCHEMA`; `unsure_labels` and `group` may be absent, and those of members where there
            are none.
        trusted_roots: folders that paths may lead to besides their own root.

    Raises:
        DataError: for ids that occur twice or are empty, samples without a path or a split, segments that end
            before they start, and members of shards without a place in them.
    """

    def __init__(self, table: pa.Table, *, trusted_roots: Sequence[str] = ()) -> None:
        if "unsure_labels" not in table.column_names:
            table = table.append_column("unsure_labels", no_labels(table.num_rows))
        for name in ("member_offset", "member_size", "group"):
            if name not in table.column_names:
                table = table.append_column(
                    name, pa.nulls(table.num_rows, _IN_MEMORY.get(name, SCHEMA.field(name).type))
                )
        self.table = pa.table({name: _in_memory(table[name], name) for name in SCHEMA.names}).combine_chunks()
        self.trusted_roots = tuple(trusted_roots)
        self._allowed_folders: dict[tuple[str, str], bool] = {}
        self._check()

    def _check(self) -> None:
        for name in ("sample_id", "path"):
            if self.table[name].null_count or pc.any(pc.equal(self.table[name], "")).as_py():
                raise DataError(f"A manifest has samples without a {name}.")
        if self.table["split"].null_count:
            raise DataError("A manifest has samples without a split.")
        if twice := self.ids.repeated():
            raise DataError(
                f"{len(twice)} sample_ids occur more than once, first: {', '.join(twice[:5])}.",
                why="results are joined by sample_id",
                fix="Give every sample its own id; sources that are put together need different folder names.",
            )
        for name in ("start_s", "end_s"):
            if pc.any(pc.invert(pc.is_finite(self.table[name]))).as_py():
                raise DataError(f"A manifest has a {name} that is no finite number.")
        backwards = pc.fill_null(pc.less_equal(self.table["end_s"], self.table["start_s"]), False)
        if pc.any(backwards).as_py():
            first = self.table.filter(backwards)["sample_id"][0].as_py()
            raise DataError(f"Sample {first} ends before it starts (end_s <= start_s).")
        self._check_members()

    def _check_members(self) -> None:
        told = (pc.is_valid(self.table[name]) for name in ("member_offset", "member_size"))
        members = self.table.filter(pc.or_(*told))
        placed = pc.and_(pc.greater(members["member_offset"], 0), pc.greater_equal(members["member_size"], 0))
        lost = pc.invert(pc.and_(pc.fill_null(placed, False), pc.match_substring(members["path"], MEMBER_MARK)))
        for first in members.filter(lost)["sample_id"].to_pylist()[:1]:
            raise DataError(
                f"Sample {first} has no place in a shard.",
                fix=f"A member has a path such as shard{MEMBER_MARK}name.jpg, a member_offset and a member_size.",
            )

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Sample:
        """One sample; many are quicker by `samples`."""
        return self.samples([row])[0]

    def __iter__(self) -> Iterator[Sample]:
        for block in self.blocks(SCHEMA.names):
            yield from _samples_of(block)

    def samples(self, rows: Sequence[int] | np.ndarray) -> list[Sample]:
        """The samples of these rows, made anew each time: all of a large pool would fill the memory."""
        return _samples_of(self.table.take(pa.array(rows, pa.int64())))

    def sample(self, sample_id: str) -> Sample:
        """The sample of this id.

        Raises:
            KeyError: when there is none.
        """
        return self.samples(self.ids.rows([sample_id]))[0]

    @functools.cached_property
    def ids(self) -> SampleIds:
        """All sample ids, in the order of the rows."""
        return SampleIds(self.table["sample_id"])

    @functools.cached_property
    def labels_by_id(self) -> SampleLabels:
        """The labels of each labelled sample, by its id."""
        return SampleLabels.of_column(self.ids, self.table["labels"])

    @property
    def classes(self) -> list[str]:
        """All labels that occur, sorted."""
        return self.labels_by_id.classes

    def has_any(self, column: Literal["labels", "unsure_labels"]) -> np.ndarray:
        """Whether there are some of each sample: bool (N,)."""
        found: np.ndarray = pc.fill_null(pc.greater(pc.list_value_length(self.table[column]), 0), False).to_numpy()
        return found

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the samples, not where they are stored: the same after the root folder has moved."""
        # Where no label is unsure and no group known, the digest is that of a manifest which has no such columns.
        is_sure = not pc.any(pc.greater(pc.list_value_length(self.table["unsure_labels"]), 0)).as_py()
        has_groups = self.table["group"].null_count < len(self)
        left_out = {*_PLACE, *(["unsure_labels"] if is_sure else []), *([] if has_groups else ["group"])}
        return digest_of_columns({name: self._parts(name) for name in SCHEMA.names if name not in left_out})

    def _parts(self, name: str) -> Iterator[list[Any]]:
        return (block.column(0).to_pylist() for block in self.blocks([name]))

    def groups(self, ids: Sequence[str]) -> list[str | None] | None:
        """The group of each sample, in the order of `ids`: the one that the manifest names, else the file where several
        of the samples lie in one, as the shots of a video do; None of others, and None when no two share a group."""
        samples = self.samples(self.ids.rows(ids))
        files = Counter((sample.root, sample.path) for sample in samples)
        groups = [
            sample.path if sample.group is None and files[sample.root, sample.path] > 1 else sample.group
            for sample in samples
        ]
        are_shared = any(size > 1 for group, size in Counter(groups).items() if group is not None)
        return groups if are_shared else None

    @functools.cached_property
    def roots(self) -> list[str]:
        """All root folders that occur, sorted."""
        return sorted(pc.unique(self.table["root"]).to_pylist())

    def split(self, name: str) -> Manifest:
        """The samples of one split."""
        return self.take(np.flatnonzero(pc.equal(self.table["split"], name).to_numpy()))

    def select(self, ids: Sequence[str]) -> Manifest:
        """The samples with these ids, in the manifest's order.

        Raises:
            DataError: naming ids that the manifest does not have.
        """
        rows = self.ids.find(ids)
        unknown = [ids[i] for i in np.flatnonzero(rows < 0).tolist()]
        if unknown:
            raise DataError(
                f"{len(unknown)} sample_ids are not in the manifest, first: {', '.join(sorted(unknown)[:5])}.",
                fix="Use the manifest that they were made from.",
            )
        return self.take(np.unique(rows))

    def take(self, rows: np.ndarray) -> Manifest:
        """The samples of these rows, which are in ascending order; those that lie together are not copied."""
        if len(rows) == len(self):
            return self
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            table = self.table.slice(int(rows[0]), len(rows))
        else:
            table = self.table.take(pa.array(rows, pa.int64()))
        return Manifest(table, trusted_roots=self.trusted_roots)

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns, a number of rows at a time, of the types of `SCHEMA`."""
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        for batch in self.table.select(list(columns)).to_batches(max_chunksize=BLOCK_ROWS):
            yield from pa.Table.from_batches([batch]).cast(schema).to_batches()

    def locate(self, sample: Sample) -> Path | Member:
        """The sample's file, or its place in a shard.

        Links are followed to see where it leads, once for each folder: pools have many files and few folders.

        Raises:
            DataError: when the path leads out of its root and of every trusted root.
        """
        if sample.member_offset is None or sample.member_size is None:
            return self._file(sample.root, sample.path)
        shard, name = split_member(sample.path)
        # A URL has no links and no working directory: its shards are those that were listed below it.
        place = below(sample.root, shard) if is_url(sample.root) else str(self._file(sample.root, shard))
        return Member(place, name, sample.member_offset, sample.member_size)

    def _file(self, root: str, relative: str) -> Path:
        path = Path(root, relative)
        cut = relative.rfind("/") + 1
        folder, name = relative[:cut], relative[cut:]
        if name == ".." or path.is_symlink():
            allowed = self._is_allowed(root, relative)
        else:
            key = (root, folder)
            if key not in self._allowed_folders:
                self._allowed_folders[key] = self._is_allowed(root, folder)
            allowed = self._allowed_folders[key]
        return path if allowed else contained(Path(root), relative)

    def _is_allowed(self, root: str, path: str) -> bool:
        # A path that was written as an absolute one needs a trusted root, wherever it leads.
        roots = self.trusted_roots if Path(path).is_absolute() else (root, *self.trusted_roots)
        resolved = Path(root, path).resolve()
        return any(resolved.is_relative_to(Path(allowed).resolve()) for allowed in roots)

    def check_paths(self) -> None:
        """Look at every path that by its text alone may lead out of its root; links are looked at when opened.

        Raises:
            DataError: naming the first one that does.
        """
        suspects = pc.match_substring_regex(self.table["path"], r"^/|(^|/)\.\.(/|$)")
        for sample in self.samples(pc.indices_nonzero(suspects)):
            self.locate(sample)

    def write(self, path: Path) -> None:
        """Write the samples as Parquet, the roots included: a snapshot of what a run used."""
        with (
            atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as writer,
        ):
            for block in self.blocks(SCHEMA.names):
                writer.write_batch(block)


def _in_memory(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    wanted = _IN_MEMORY.get(name, SCHEMA.field(name).type)
    if wanted == _FEW_VALUES and column.type != wanted:
        column = column.cast(pa.string()).dictionary_encode()
    return column.unify_dictionaries() if wanted == _FEW_VALUES else column.cast(wanted)


def _samples_of(rows: pa.Table | pa.RecordBatch) -> list[Sample]:
    columns = {name: rows.column(name).to_pylist() for name in SCHEMA.names}
    # Few values: one string object each, not one per row.
    columns["root"], columns["split"] = (map(sys.intern, columns[name]) for name in ("root", "split"))
    for name in ("labels", "unsure_labels"):
        columns[name] = [tuple(labels or ()) for labels in columns[name]]
    return [Sample(*values) for values in zip(*(columns[f.name] for f in fields(Sample)), strict=True)]


def no_labels(count: int) -> pa.Array:
    """A column of that many empty lists of labels."""
    return pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))


def repeated(text: str, count: int) -> pa.DictionaryArray:
    """A column of one text that many times."""
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [text])


def member_path(shard: str, name: str) -> str:
    """The path of a shard's member."""
    return f"{shard}!/{name}"


def split_member(path: str) -> tuple[str, str]:
    """The shard and the name in the path of a member."""
    shard, _, name = path.partition(MEMBER_MARK)
    return f"{shard}.tar", name


def twins(ours: Iterable[pa.RecordBatch], theirs: Iterable[pa.RecordBatch]) -> tuple[SampleIds, SampleIds]:
    """Which samples of one manifest are also in another one: their ids there, and row by row those in the other.

    The same file and the same segment make the same sample; ids are unique within one manifest only.

    Args:
        ours: one manifest in blocks of `TWIN_COLUMNS`.
        theirs: the other.
    """
    (our_ids, our_places), (their_ids, their_places) = _places(ours), _places(theirs)
    rows = their_places.find(our_places)
    found = np.flatnonzero(rows >= 0)
    return our_ids.take(found), their_ids.take(rows[found])


def _places(blocks: Iterable[pa.RecordBatch]) -> tuple[SampleIds, SampleIds]:
    """Ids, and what tells the same sample from others."""
    ids, places = [], []
    for block in blocks:
        roots, paths, starts, ends = (block.column(name).to_pylist() for name in TWIN_COLUMNS[1:])
        segments = zip(roots, paths, starts, ends, strict=True)
        texts = [
            f"{os.path.normpath(Path(root, path).absolute())}\0{start}\0{end}" for root, path, start, end in segments
        ]
        ids.append(block["sample_id"])
        places.append(pa.array(texts, pa.string()))
    return SampleIds(pa.chunked_array(ids, pa.string())), SampleIds(pa.chunked_array(places, pa.string()))


def label_blocks(labels: Mapping[str, Sequence[str]]) -> Iterator[pa.RecordBatch]:
    """Labels by sample id as blocks of `LABEL_COLUMNS`."""
    for ids, lists in SampleLabels.of_mapping(labels).blocks():
        yield pa.record_batch([ids, lists], names=list(LABEL_COLUMNS))


def read_snapshot(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of what `Manifest.write` wrote, a number of rows at a time.

    Raises:
        DamagedArtifact: when the file cannot be read.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BLOCK_ROWS, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        fix = "Remove it: the source is then read anew."
        raise DamagedArtifact(f"{path} is damaged.", why=str(error), fix=fix) from error


def concatenate(manifests: Sequence[Manifest]) -> Manifest:
    """Several manifests as one; their sample ids must differ."""
    trusted = [root for manifest in manifests for root in manifest.trusted_roots]
    return Manifest(pa.concat_tables([m.table for m in manifests]), trusted_roots=trusted)


def from_samples(samples: Sequence[Sample], *, trusted_roots: Sequence[str] = ()) -> Manifest:
    """A manifest of these samples."""
    rows = {name: [getattr(sample, name) for sample in samples] for name in SCHEMA.names}
    return Manifest(pa.table(rows, schema=SCHEMA), trusted_roots=trusted_roots)
