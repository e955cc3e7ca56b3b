"""Manifest files: what people write, and other programs read.

A manifest is a CSV or Parquet file with the columns

    sample_id   unique text
    path        relative to the manifest's root folder, or absolute inside a trusted root
    label       text; empty or absent for unlabelled samples; Parquet may hold a list of texts (several labels)
    split       text; which names mean training and validation is said where the file is used (train, val)
    start_s     optional: seconds from the first frame at which the sample starts
    end_s       optional: seconds at which it ends
    unsure_labels
                optional: as label; classes that the sample is neither a positive nor a negative of
    group       optional: text that samples have in common which are no independent evidence, such as the film that they
                were cut from; intervals of scores resample whole groups
    member_offset, member_size
                optional: of a member of a tar shard, whose path is SHARD.tar!/NAME: where its bytes are in the shard
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from cfvid.artifacts import atomic_file
from cfvid.data.manifest import Manifest, Sample, no_labels, repeated
from cfvid.data.manifest_paths import mended_paths
from cfvid.errors import DataError
from cfvid.media.source import is_url

_REQUIRED = ("sample_id", "path", "split")
_OPTIONAL = ("label", "start_s", "end_s", "unsure_labels", "group", "member_offset", "member_size")
_NUMBERS = {"start_s": pa.float64(), "end_s": pa.float64(), "member_offset": pa.int64(), "member_size": pa.int64()}
SEPARATOR = "|"
"""Joins several labels in the CSV files that cfvid writes."""


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
    table = _with_plain_names(_read_table(path))
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}.",
            why=f"it has {', '.join(table.column_names)}",
            fix=f"A manifest has the columns {', '.join(_REQUIRED)}, and optionally {', '.join(_OPTIONAL)}.",
        )
    root = str(media_root or path.parent)
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]} twice.")
    try:
        paths = mended_paths(table["path"], ids=table["sample_id"], root=root, place=path)
        columns = {
            "sample_id": table["sample_id"],
            "path": paths,
            "labels": _label_lists(table, ("labels", "label"), label_separator),
            "unsure_labels": _label_lists(table, ("unsure_labels",), label_separator),
            "split": table["split"],
            "group": _groups(table),
            **{name: _numbers(table, name, kind) for name, kind in _NUMBERS.items()},
            "root": repeated(root, table.num_rows),
        }
        return Manifest(pa.table(columns), trusted_roots=trusted_roots)
    except pa.ArrowException as error:
        raise DataError(f"{path} has a column of the wrong type.", why=str(error).splitlines()[0]) from error


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path)
        # Ids and labels such as 007 are text: only times and places are numbers.
        types = dict.fromkeys(("sample_id", "path", "label", "split", "unsure_labels", "group"), pa.string()) | _NUMBERS
        written = {name: types[name.strip()] for name in _header(path) if name.strip() in types}
        options = pyarrow.csv.ConvertOptions(column_types=written, strings_can_be_null=False)
        return pyarrow.csv.read_csv(
            path, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    except FileNotFoundError as error:
        raise DataError(f"The manifest {path} does not exist.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a manifest.", why=str(error).splitlines()[0]) from error


def _header(path: Path) -> list[str]:
    """The names of a CSV's columns as they are written."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file), [])


def _with_plain_names(table: pa.Table) -> pa.Table:
    """Columns called ` label`, as after a comma and a blank, are called `label`."""
    return table.rename_columns([name.strip() for name in table.column_names])


def _label_lists(table: pa.Table, names: Sequence[str], separator: str | None) -> pa.Array | pa.ChunkedArray:
    """The first of these columns that there is, as lists of texts, none of which is empty."""
    name = next((name for name in names if name in table.column_names), None)
    if name is None:
        return no_labels(table.num_rows)
    column = table[name]
    if pa.types.is_nested(column.type):
        column = column.cast(pa.list_(pa.large_string()))
    elif separator:
        column = pc.split_pattern(column.cast(pa.large_string()), separator)
    else:
        column = column.cast(pa.large_string())
    return pa.chunked_array([_lists(chunk) for chunk in column.chunks], pa.list_(pa.large_string()))


def _lists(column: pa.Array) -> pa.ListArray:
    """Texts or lists of texts as lists without empty texts."""
    texts, owners = column, np.arange(len(column))
    if pa.types.is_nested(column.type):
        texts, owners = column.flatten(), pc.list_parent_indices(column).to_numpy()
    is_kept = pc.fill_null(pc.not_equal(texts, ""), False)
    counts = np.bincount(owners[is_kept.to_numpy(zero_copy_only=False)], minlength=len(column))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), texts.filter(is_kept))


def _groups(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    if "group" not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    groups = pc.utf8_trim_whitespace(table["group"].cast(pa.large_string()))
    return pc.if_else(pc.equal(groups, ""), None, groups)


def _numbers(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    return table[name].cast(kind)


def write_manifest(manifest: Manifest, path: Path) -> list[Path]:
    """Write a manifest for people and other programs, with the columns above, as `read_manifest` reads it.

    Paths are relative to the file's folder where the media lie below it, else absolute. Several labels are a list
    in Parquet; in CSV they are joined with `|`.

    Args:
        manifest: the samples.
        path: .csv or .parquet.

    Returns:
        The root folders of absolute paths: to be named in `data.trusted_roots` by whoever reads the file.

    Raises:
        DataError: when the file name ends in neither, a label of a CSV with several per sample contains `|`, or samples
            lie behind a URL.
    """
    kind = check_name(path)
    remote = next((sample.root for sample in manifest if is_url(sample.root)), None)
    if remote is not None:
        raise DataError(f"A manifest names files, and {remote} is a URL.", fix="Name the URL itself as the source.")
    home = path.parent.resolve()
    paths = [_public_path(sample, home) for sample in manifest]
    labels, unsure = [sample.labels for sample in manifest], [sample.unsure_labels for sample in manifest]
    joined = kind == ".csv" and any(len(several) > 1 for several in (*labels, *unsure))
    columns = {
        "sample_id": pa.array(manifest.ids, pa.string()),
        "path": pa.array(paths, pa.string()),
        "label": _public_labels(labels, joined=joined),
        "split": manifest.table["split"],
    }
    for pair in (("start_s", "end_s"), ("member_offset", "member_size")):
        if any(manifest.table[name].null_count < len(manifest) for name in pair):
            columns |= {name: manifest.table[name] for name in pair}
    if manifest.table["group"].null_count < len(manifest):
        columns["group"] = pc.fill_null(manifest.table["group"].cast(pa.string()), "")
    if any(unsure):
        columns["unsure_labels"] = _public_labels(unsure, joined=joined)
    with atomic_file(path, check=_read_table) as temporary:
        _WRITERS[kind](pa.table(columns), temporary)
    return sorted({_root_of(sample, manifest) for sample, text in zip(manifest, paths, strict=True) if text[0] == "/"})


_WRITERS = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}


def check_name(path: Path) -> str:
    """The kind of manifest that a file name stands for: its suffix.

    Raises:
        DataError: when it is neither .csv nor .parquet.
    """
    kind = path.suffix.lower()
    if kind not in _WRITERS:
        raise DataError(f"A manifest is a .csv or .parquet file, not {path.name!r}.")
    return kind


def _public_path(sample: Sample, home: Path) -> str:
    full = _full_path(sample)
    return full.relative_to(home).as_posix() if full.is_relative_to(home) else full.as_posix()


def _full_path(sample: Sample) -> Path:
    # A linked file keeps its own name, and is judged again by whoever reads the manifest.
    return Path(os.path.normpath(Path(sample.root).resolve() / sample.path))


def _root_of(sample: Sample, manifest: Manifest) -> Path:
    """The folder that has to be trusted for a sample's absolute path to be followed."""
    roots = [Path(root).resolve() for root in (sample.root, *manifest.trusted_roots)]
    full = _full_path(sample)
    return next((root for root in roots if full.is_relative_to(root)), full.parent)


def _public_labels(labels: Sequence[tuple[str, ...]], *, joined: bool) -> pa.Array:
    """A column of texts where each sample has at most one label, else of lists, or of texts that join several."""
    if not joined:
        if all(len(several) <= 1 for several in labels):
            return pa.array([several[0] if several else "" for several in labels], pa.string())
        return pa.array([list(several) for several in labels], pa.list_(pa.string()))
    unfit = next((name for several in labels for name in several if SEPARATOR in name), None)
    if unfit is not None:
        raise DataError(
            f"The label {unfit!r} contains {SEPARATOR!r}, which joins several labels in a CSV.",
            fix="Write a .parquet file, which holds lists.",
        )
    return pa.array([SEPARATOR.join(several) for several in labels], pa.string())
