"""The manifest: which samples there are. Everything else joins to it by `sample_id`.

As a file it is CSV or Parquet with the columns

    sample_id   unique text
    path        relative to the manifest's root folder, or absolute inside a trusted root
    label       text; empty or absent for unlabelled samples; Parquet may hold a list of texts (several labels)
    split       train | val
    start_s     optional: seconds from the first frame at which the sample starts
    end_s       optional: seconds at which it ends
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from cfvid.artifacts import atomic_file, contained, digest_of
from cfvid.errors import DataError

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("path", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("root", pa.string()),
    ]
)
"""In memory: `labels` is always a list, and each sample knows its root folder."""
_REQUIRED = ("sample_id", "path", "split")
_OPTIONAL = ("label", "start_s", "end_s")


@dataclass(frozen=True)
class Sample:
    """One row of a manifest."""

    sample_id: str
    path: str
    """Relative to `root`."""
    root: str
    labels: tuple[str, ...]
    split: str
    start_s: float | None
    end_s: float | None


class Manifest:
    """An immutable table of samples with unique ids.

    Args:
        table: with the columns of `SCHEMA`.
        trusted_roots: folders that paths may lead to besides their own root.

    Raises:
        DataError: for ids that occur twice or are empty, and segments that end before they start.
    """

    def __init__(self, table: pa.Table, *, trusted_roots: Sequence[str] = ()) -> None:
        self.table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        self.trusted_roots = tuple(trusted_roots)
        self._check()

    def _check(self) -> None:
        ids = self.table["sample_id"]
        if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
            raise DataError("A manifest has samples without a sample_id.")
        if pc.count_distinct(ids).as_py() != len(ids):
            twice = [i for i, n in Counter(ids.to_pylist()).items() if n > 1]
            raise DataError(
                f"{len(twice)} sample_ids occur more than once, first: {', '.join(twice[:5])}.",
                why="results are joined by sample_id",
                fix="Give every sample its own id; sources that are put together need different folder names.",
            )
        backwards = pc.fill_null(pc.less_equal(self.table["end_s"], self.table["start_s"]), False)
        if pc.any(backwards).as_py():
            first = self.table.filter(backwards)["sample_id"][0].as_py()
            raise DataError(f"Sample {first} ends before it starts (end_s <= start_s).")

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Sample:
        values = {name: self.table[name][row].as_py() for name in SCHEMA.names}
        values["labels"] = tuple(values["labels"] or ())
        return Sample(**values)

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    @functools.cached_property
    def ids(self) -> list[str]:
        """All sample ids, in the order of the rows."""
        return self.table["sample_id"].to_pylist()

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each sample id."""
        return {sample_id: row for row, sample_id in enumerate(self.ids)}

    @functools.cached_property
    def labels_by_id(self) -> dict[str, tuple[str, ...]]:
        """The labels of each labelled sample, by its id."""
        pairs = zip(self.ids, self.table["labels"].to_pylist(), strict=True)
        return {sample_id: tuple(labels) for sample_id, labels in pairs if labels}

    @functools.cached_property
    def classes(self) -> list[str]:
        """All labels that occur, sorted."""
        return sorted({label for labels in self.labels_by_id.values() for label in labels})

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the samples, not where they are stored: the same after the root folder has moved."""
        return digest_of(self.table.drop(["root"]).to_pydict())

    def split(self, name: str) -> Manifest:
        """The samples of one split."""
        return Manifest(self.table.filter(pc.equal(self.table["split"], name)), trusted_roots=self.trusted_roots)

    def select(self, ids: Collection[str]) -> Manifest:
        """The samples with these ids, in the manifest's order.

        Raises:
            DataError: naming ids that the manifest does not have.
        """
        unknown = [sample_id for sample_id in ids if sample_id not in self.row_of]
        if unknown:
            raise DataError(
                f"{len(unknown)} sample_ids are not in the manifest, first: {', '.join(sorted(unknown)[:5])}.",
                fix="Use the manifest that they were made from.",
            )
        rows = sorted(self.row_of[sample_id] for sample_id in ids)
        return Manifest(self.table.take(pa.array(rows, pa.int64())), trusted_roots=self.trusted_roots)

    def locate(self, sample: Sample) -> Path:
        """The sample's file.

        Raises:
            DataError: when the path leads out of its root and of every trusted root.
        """
        for trusted in self.trusted_roots:
            path = Path(sample.root) / sample.path
            if path.resolve().is_relative_to(Path(trusted).resolve()):
                return path
        return contained(Path(sample.root), sample.path)

    def write(self, path: Path) -> None:
        """Write the samples as Parquet, the roots included: a snapshot of what a run used."""
        with atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary:
            pyarrow.parquet.write_table(self.table, temporary)


def concatenate(manifests: Sequence[Manifest]) -> Manifest:
    """Several manifests as one; their sample ids must differ."""
    trusted = [root for manifest in manifests for root in manifest.trusted_roots]
    return Manifest(pa.concat_tables([m.table for m in manifests]), trusted_roots=trusted)


def from_samples(samples: Sequence[Sample], *, trusted_roots: Sequence[str] = ()) -> Manifest:
    """A manifest of these samples."""
    rows = {name: [getattr(sample, name) for sample in samples] for name in SCHEMA.names}
    return Manifest(pa.table(rows, schema=SCHEMA), trusted_roots=trusted_roots)


def read_manifest(
    path: Path,
    *,
    media_root: Path | None = None,
    label_separator: str | None = None,
    trusted_roots: Sequence[str] = (),
) -> Manifest:
    """Read a CSV or Parquet manifest.

    Args:
        path: the file.
        media_root: where its relative paths start; by default its own folder.
        label_separator: splits the label text into several labels.
        trusted_roots: folders that paths may lead to besides `media_root`.

    Raises:
        DataError: when the file or a needed column is missing, or a value has the wrong type.
    """
    table = _read_table(path)
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}.",
            why=f"it has {', '.join(table.column_names)}",
            fix=f"A manifest has the columns {', '.join(_REQUIRED)}, and optionally {', '.join(_OPTIONAL)}.",
        )
    root = str(media_root or path.parent)
    columns = {
        "sample_id": table["sample_id"],
        "path": table["path"],
        "labels": _label_lists(table, label_separator),
        "split": table["split"],
        "start_s": _seconds(table, "start_s"),
        "end_s": _seconds(table, "end_s"),
        "root": pa.array([root] * table.num_rows, pa.string()),
    }
    return Manifest(pa.table(columns), trusted_roots=trusted_roots)


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path)
        # Ids and labels such as 007 are text: only the times are numbers.
        types = {name: pa.string() for name in ("sample_id", "path", "label", "split")}
        options = pyarrow.csv.ConvertOptions(
            column_types=types | {"start_s": pa.float64(), "end_s": pa.float64()}, strings_can_be_null=False
        )
        return pyarrow.csv.read_csv(
            path, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    except FileNotFoundError as error:
        raise DataError(f"The manifest {path} does not exist.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a manifest.", why=str(error).splitlines()[0]) from error


def _label_lists(table: pa.Table, separator: str | None) -> pa.Array | pa.ChunkedArray:
    name = next((name for name in ("labels", "label") if name in table.column_names), None)
    if name is None:
        return pa.array([[]] * table.num_rows, pa.list_(pa.string()))
    column = table[name]
    if pa.types.is_list(column.type):
        return column
    texts = column.cast(pa.string()).to_pylist()
    lists = [(text.split(separator) if separator else [text]) if text else [] for text in texts]
    return pa.array([[part for part in parts if part] for parts in lists], pa.list_(pa.string()))


def _seconds(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.float64())
    return table[name].cast(pa.float64())
