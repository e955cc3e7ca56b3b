"""Readers: what users have -> a manifest. Which one reads a source is decided here and logged."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc

from cfvid.config import resolve
from cfvid.data import embedded
from cfvid.data.blanks import trimmed
from cfvid.data.folders import files_below, read_folder
from cfvid.data.manifest import SCHEMA, Manifest, Sample, concatenate, from_samples
from cfvid.data.manifest_files import read_manifest
from cfvid.data.shard_names import PIPE_PREFIX, holds_only_shards, names_shards
from cfvid.data.shards import read_shards
from cfvid.data.split_names import chosen_splits
from cfvid.data.subsets import keep_classes, keep_samples
from cfvid.errors import DataError
from cfvid.media.source import is_url
from cfvid.sections.data import EMBEDDED_PREFIX, DataConfig, SourceConfig

logger = logging.getLogger(__name__)

_FOLDERS = ("folder", "classes")
"""Kinds of sources that are folders."""
_LONGEST_HEADER = 10_000


def read_sources(
    sources: Sequence[SourceConfig], *, data: DataConfig, suffixes: Collection[str], cache: Path, seed: int = 0
) -> Manifest:
    """All sources as one manifest, with the splits called `train` and `val`.

    Where there are several sources, each sample id starts with its source's folder or file name, and with as many of
    its parent folders as keep the sources apart.

    Args:
        sources: as configured.
        data: for `root` and `trusted_roots`.
        suffixes: file name endings that are media of the run's modality.
        cache: where embedded sets are generated.
        seed: of the embedded sets.

    Raises:
        DataError: when a source does not exist, is empty, or cannot be read.
    """
    names = _distinct_names(sources, data)
    manifests = [
        _with_standard_splits(read_source(source, data=data, suffixes=suffixes, cache=cache, seed=seed), source)
        for source in sources
    ]
    if len(manifests) > 1:
        manifests = [_prefixed(manifest, name) for name, manifest in zip(names, manifests, strict=True)]
    return concatenate(manifests)


def read_source(
    source: SourceConfig, *, data: DataConfig, suffixes: Collection[str], cache: Path, seed: int = 0
) -> Manifest:
    """One source with the splits and sample ids that it has by itself; see `read_sources`."""
    kind = _kind_of(source, data, suffixes)
    trusted = [str(resolve(root, root=data.root)) for root in data.trusted_roots]
    if kind == "embedded":
        train, val = source.per_class or (None, None)
        name = source.path.removeprefix(EMBEDDED_PREFIX)
        folder = embedded.generate(name, cache, seed=seed, num_train_per_class=train, num_val_per_class=val)
        manifest = read_folder(folder, suffixes=suffixes)
    elif kind == "shards":
        manifest = read_shards(
            _shards_path(source, data),
            suffixes=suffixes,
            cache=cache,
            train_split=source.train_split,
            val_split=source.val_split,
            label_separator=source.label_separator,
            trusted_roots=trusted,
        )
    else:
        path = resolve(source.path, root=data.root)
        media_root = resolve(source.media_root, root=data.root) if source.media_root else None
        if kind in _FOLDERS:
            manifest = read_folder(
                path,
                suffixes=suffixes,
                train_split=source.train_split,
                val_split=source.val_split,
                only_classes=kind == "classes",
                trusted_roots=trusted,
            )
        elif kind == "kinetics":
            manifest = read_kinetics_csv(path, media_root=media_root, suffixes=suffixes, trusted_roots=trusted)
        else:
            manifest = read_manifest(
                path, media_root=media_root, label_separator=source.label_separator, trusted_roots=trusted
            )
    manifest = trimmed(manifest, place=source.path)
    if len(manifest) == 0:
        raise _no_samples(source, f"read as {kind}; media files end in {', '.join(sorted(suffixes))}")
    manifest.check_paths()
    logger.info("%s: read as %s, %d samples, %d classes", source.path, kind, len(manifest), len(manifest.classes))
    return manifest


def _no_samples(source: SourceConfig, why: str) -> DataError:
    return DataError(
        f"The source {source.path} has no samples.",
        why=why,
        fix="Check the path, and the names of its splits (train_split, val_split).",
    )


def _kind_of(source: SourceConfig, data: DataConfig, suffixes: Collection[str]) -> str:
    if source.kind == "embedded" or source.path.startswith(EMBEDDED_PREFIX):
        return "embedded"
    path = resolve(source.path, root=data.root)
    if source.kind == "shards" or (source.kind == "auto" and names_shards(source.path) and not path.is_dir()):
        return "shards"
    if not path.exists():
        raise DataError(
            f"The source {path} does not exist.",
            fix="Check the path; relative ones start at "
            + (f"data.root ({data.root})." if data.root else "the working directory."),
        )
    if path.is_dir() != (source.kind in _FOLDERS) and source.kind != "auto":
        raise DataError(f"The source {path} is no {'folder' if source.kind in _FOLDERS else 'file'}.")
    if source.kind != "auto":
        return source.kind
    if path.is_dir():
        return "shards" if holds_only_shards(path, suffixes=suffixes) else "folder"
    if path.suffix.lower() == ".parquet":
        return "manifest"
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        header = file.readline(_LONGEST_HEADER).lower()
    return "kinetics" if "youtube_id" in header else "manifest"


def _shards_path(source: SourceConfig, data: DataConfig) -> str:
    if is_url(source.path) or source.path.startswith(PIPE_PREFIX):
        return source.path
    return str(resolve(source.path, root=data.root))


def _distinct_names(sources: Sequence[SourceConfig], data: DataConfig) -> list[str]:
    """A name for each source: its folder's or file's, with as many parent folders as keep them apart."""
    parts = [_name_parts(source, data) for source in sources]
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(source.path for source in sources if parts.count(_name_parts(source, data)) > 1)
    raise DataError(f"The source {twice} is given twice.", fix="Name it once; its samples would occur twice.")


def _name_parts(source: SourceConfig, data: DataConfig) -> tuple[str, ...]:
    if source.kind == "embedded" or source.path.startswith(EMBEDDED_PREFIX):
        return (source.path.removeprefix(EMBEDDED_PREFIX),)
    if is_url(source.path):
        return tuple(source.path.partition("://")[2].removesuffix(".tar").strip("/").split("/"))
    path = Path(os.path.normpath(resolve(source.path, root=data.root).absolute()))
    return path.parts[1:] if path.is_dir() else path.with_suffix("").parts[1:]


def _prefixed(manifest: Manifest, name: str) -> Manifest:
    ids = pc.binary_join_element_wise(
        pa.scalar(name, pa.large_string()), manifest.ids.column, pa.scalar("/", pa.large_string())
    )
    table = manifest.table.set_column(0, "sample_id", ids)
    if table["group"].null_count < len(manifest):  # groups of two sources may have the same name
        groups = pc.binary_join_element_wise(name, table["group"].cast(pa.string()), "/")
        table = table.set_column(SCHEMA.get_field_index("group"), "group", groups)
    return Manifest(table, trusted_roots=manifest.trusted_roots)


def _with_standard_splits(manifest: Manifest, source: SourceConfig) -> Manifest:
    """Only the two splits that are used, called `train` and `val` from here on."""
    found = manifest.table["split"].cast(pa.large_string())
    counts = sorted((entry["values"], entry["counts"]) for entry in pc.value_counts(found).to_pylist())
    names = chosen_splits(
        [split for split, _ in counts],
        train=source.train_split,
        val=source.val_split,
        labelled=pc.unique(found.filter(pa.array(manifest.has_any("labels")))).to_pylist(),
    )
    for name, usual, key in zip(names, ("train", "val"), ("train_split", "val_split"), strict=True):
        if getattr(source, key) is None and name != usual:
            logger.info("%s: its split %r is used as %s (%s chooses another)", source.path, name, usual, key)
    renamed = pc.if_else(pc.equal(found, names[1]), "val", "train")
    keep = pc.is_in(found, value_set=pa.array(names, pa.large_string()))
    table = manifest.table.set_column(SCHEMA.get_field_index("split"), "split", renamed).filter(keep)
    dropped = [f"{split!r} ({count} samples)" for split, count in counts if split not in names]
    if table.num_rows == 0:
        raise _no_samples(source, f"its splits are {', '.join(dropped)}; asked for are {', '.join(names)}")
    if dropped:
        logger.info("%s: not used are the splits %s", source.path, ", ".join(dropped))
    return _part(Manifest(table, trusted_roots=manifest.trusted_roots), source)


def _part(manifest: Manifest, source: SourceConfig) -> Manifest:
    """The classes and as many training samples as the source is limited to."""
    whole = len(manifest)
    if source.class_share is not None:
        manifest = keep_classes(manifest, source.class_share)
    if source.max_samples is not None:
        manifest = keep_samples(manifest, source.max_samples, split="train")
    if len(manifest) < whole:
        num_classes = len(manifest.classes)
        logger.info("%s: limited to %d samples of %d classes", source.path, len(manifest), num_classes)
    if len(manifest) == 0:
        raise _no_samples(source, f"its class_share {source.class_share} holds no class")
    return manifest


# ---------------------------------------------------------------------------------------------- Kinetics


def read_kinetics_csv(
    path: Path,
    *,
    media_root: Path | None = None,
    suffixes: Collection[str],
    trusted_roots: Sequence[str] = (),
    split: str = "train",
    files: Sequence[PurePath] | None = None,
) -> Manifest:
    """Kinetics' official CSV (label, youtube_id, time_start, time_end, split) as a manifest.

    A clip's file is looked for as the usual downloaders name it, `ID_SSSSSS_EEEEEE.mp4` (already cut to the
    segment) or `ID.mp4` (whole, so that the segment's times apply), in `LABEL/`, `SPLIT/LABEL/`, `SPLIT/` or the root.
    `LABEL` may have underscores for spaces. Clips without a file are listed all the same: the ledger then names them as
    missing. Clips of one video are a group.

    Args:
        path: the CSV.
        media_root: where the files are; by default the CSV's folder.
        suffixes: endings that the files may have besides .mp4.
        trusted_roots: folders that links may lead to.
        split: of rows that name none.
        files: all files below `media_root`, where they are known.

    Raises:
        DataError: naming the first line that is not in this format.
    """
    root = media_root or path.parent
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist.", fix="Check media_root.")
    files = files_below(root, trusted_roots=trusted_roots) if files is None else files
    present = {file.with_suffix("").as_posix(): file.as_posix() for file in files if file.suffix.lower() in suffixes}
    # With a byte order mark, which spreadsheet programs write, the first column would have another name.
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        samples = [_kinetics_sample(row, root, present, split, f"{path}:{rows.line_num}") for row in rows]
    # Most sets of this kind have one clip of each video; then there are no groups.
    of_video = Counter(sample.group for sample in samples)
    samples = [sample if of_video[sample.group] > 1 else replace(sample, group=None) for sample in samples]
    return from_samples(samples, trusted_roots=trusted_roots)


def _kinetics_sample(row: dict[str, str], root: Path, present: dict[str, str], split: str, place: str) -> Sample:
    try:
        video, split = row["youtube_id"].strip(), (row.get("split") or "").strip() or split
        start, end = float(row["time_start"]), float(row["time_end"])
        cut = f"{video}_{int(start):06d}_{int(end):06d}"
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: this row is not Kinetics' CSV format: {row}.", why=repr(error)) from error
    label = row.get("label") or ""
    # Kinetics-400's CSV may call it `validate`, while the folder is `val`.
    splits = [f"{name}/" for name in ((split, "val") if split.startswith("val") else (split,))]
    folder = label.strip()
    labels = [f"{name}/" for name in (folder, folder.replace(" ", "_"))] if folder else []
    folders = [f"{part}{name}" for part in ("", *splits) for name in labels] + [*splits, ""]
    stems = [f"{folder}{name}" for name in (cut, video) for folder in folders]
    stem = next((stem for stem in stems if stem in present), stems[0])
    whole = stem in present and PurePath(stem).name == video
    return Sample(
        sample_id=cut,
        path=present.get(stem, f"{stem}.mp4"),
        root=str(root),
        labels=(label,) if label else (),
        split=split,
        start_s=start if whole else None,
        end_s=end if whole else None,
        group=video,
    )
