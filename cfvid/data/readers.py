"""Readers: what users have -> a manifest. Which one reads a source is decided here and logged."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from cfvid.config import DataConfig, SourceConfig, resolve
from cfvid.data import embedded
from cfvid.data.manifest import SCHEMA, Manifest, Sample, concatenate, from_samples, read_manifest
from cfvid.errors import DataError

logger = logging.getLogger(__name__)

EMBEDDED_PREFIX = "embedded:"


def read_sources(
    sources: Sequence[SourceConfig], *, data: DataConfig, suffixes: Collection[str], cache: Path, seed: int = 0
) -> Manifest:
    """All sources as one manifest, with the splits called `train` and `val`.

    Where there are several sources, each sample id starts with its source's folder or file name.

    Args:
        sources: as configured.
        data: for `root` and `trusted_roots`.
        suffixes: file name endings that are media of the run's modality.
        cache: where embedded sets are generated.
        seed: of the embedded sets.

    Raises:
        DataError: when a source does not exist, is empty, or cannot be read.
    """
    manifests = [_read_source(source, data, suffixes, cache, seed) for source in sources]
    if len(manifests) > 1:
        manifests = [
            _prefixed(manifest, _name_of(source)) for source, manifest in zip(sources, manifests, strict=True)
        ]
    return concatenate(manifests)


def _read_source(
    source: SourceConfig, data: DataConfig, suffixes: Collection[str], cache: Path, seed: int
) -> Manifest:
    kind = source.kind if source.kind != "auto" else _kind_of(source, data)
    if kind == "embedded":
        folder = embedded.generate(source.path.removeprefix(EMBEDDED_PREFIX), cache, seed=seed)
        manifest = read_folder(folder, suffixes=suffixes)
    else:
        path = resolve(source.path, root=data.root)
        media_root = resolve(source.media_root, root=data.root) if source.media_root else None
        trusted = [str(resolve(root, root=data.root)) for root in data.trusted_roots]
        if kind == "folder":
            manifest = read_folder(path, suffixes=suffixes, trusted_roots=trusted)
        elif kind == "kinetics":
            manifest = read_kinetics_csv(path, media_root=media_root)
        else:
            manifest = read_manifest(
                path, media_root=media_root, label_separator=source.label_separator, trusted_roots=trusted
            )
    manifest = _with_standard_splits(manifest, source)
    if len(manifest) == 0:
        raise DataError(
            f"The source {source.path} has no samples.",
            why=f"read as {kind}; media files end in {', '.join(sorted(suffixes))}",
            fix="Check the path, and the names of its splits (train_split, val_split).",
        )
    logger.info("%s: read as %s, %d samples, %d classes", source.path, kind, len(manifest), len(manifest.classes))
    return manifest


def _kind_of(source: SourceConfig, data: DataConfig) -> str:
    if source.path.startswith(EMBEDDED_PREFIX):
        return "embedded"
    path = resolve(source.path, root=data.root)
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise DataError(
            f"The source {path} does not exist.",
            fix="Check the path; relative ones start at data.root "
            f"({data.root or 'not given, so the working directory'}).",
        )
    if path.suffix.lower() == ".parquet":
        return "manifest"
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        header = file.readline().lower()
    return "kinetics" if "youtube_id" in header else "manifest"


def _name_of(source: SourceConfig) -> str:
    return Path(source.path.removeprefix(EMBEDDED_PREFIX)).stem if "." in source.path else Path(source.path).name


def _prefixed(manifest: Manifest, name: str) -> Manifest:
    ids = pa.array([f"{name}/{sample_id}" for sample_id in manifest.ids], pa.string())
    table = manifest.table.set_column(0, "sample_id", ids)
    return Manifest(table, trusted_roots=manifest.trusted_roots)


def _with_standard_splits(manifest: Manifest, source: SourceConfig) -> Manifest:
    """Only the two named splits, called `train` and `val` from here on."""
    names = {source.train_split: "train", source.val_split: "val"}
    found = manifest.table["split"].to_pylist()
    keep = pa.array([split in names for split in found])
    renamed = pa.array([names.get(split, "") for split in found], pa.string())
    table = manifest.table.set_column(SCHEMA.get_field_index("split"), "split", renamed).filter(keep)
    dropped = sorted({split for split in found if split not in names})
    if dropped:
        logger.info("%s: the splits %s are not used", source.path, ", ".join(map(repr, dropped)))
    return Manifest(table, trusted_roots=manifest.trusted_roots)


# ---------------------------------------------------------------------------------------------- folders


def read_folder(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Manifest:
    """Class folders as a manifest; sample ids are paths relative to `root`.

        ROOT/{train,val}/CLASS/FILE    labelled, with splits
        ROOT/CLASS/FILE                labelled, all in `train`
        ROOT/FILE                      unlabelled, all in `train`

    Any other top folders beside `train` count as splits too. Deeper folders belong to their class. Files that are
    no media of this modality are ignored, and counted in the log.
    """
    has_splits = (root / "train").is_dir()
    samples, ignored = [], 0
    for relative in _files_below(root):
        if relative.suffix.lower() not in suffixes:
            ignored += 1
            continue
        folders = relative.parts[:-1]
        split, below = (folders[0] if folders else "", folders[1:]) if has_splits else ("train", folders)
        samples.append(
            Sample(
                sample_id=relative.as_posix(),
                path=relative.as_posix(),
                root=str(root),
                labels=below[:1],
                split=split,
                start_s=None,
                end_s=None,
            )
        )
    if ignored:
        logger.info("%s: %d files are no media of this modality and were ignored", root, ignored)
    return from_samples(samples, trusted_roots=trusted_roots)


def _files_below(root: Path) -> list[Path]:
    """All files below a folder, relative to it, in one order on every machine."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name).relative_to(root) for name in files if not name.startswith(".")]
    return sorted(found)


# ---------------------------------------------------------------------------------------------- Kinetics


def read_kinetics_csv(path: Path, *, media_root: Path | None = None) -> Manifest:
    """Kinetics' official CSV (label, youtube_id, time_start, time_end, split) as a manifest.

    A clip's file is looked for as the usual downloaders name it, `ID_SSSSSS_EEEEEE.mp4` (already cut to the
    segment) or `ID.mp4` (whole, so that the segment's times apply), in `LABEL/`, `SPLIT/LABEL/`, `SPLIT/` or the root.
    Clips without a file are listed all the same: the ledger then names them as missing.
    """
    root = media_root or path.parent
    present = {file.as_posix() for file in _files_below(root)}
    samples = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            samples.append(_kinetics_sample(row, root, present))
    return from_samples(samples)


def _kinetics_sample(row: dict[str, str], root: Path, present: set[str]) -> Sample:
    try:
        video, split = row["youtube_id"], row.get("split") or "train"
        start, end = float(row["time_start"]), float(row["time_end"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"This row is not Kinetics' CSV format: {row}.", why=repr(error)) from error
    label = row.get("label") or ""
    cut = f"{video}_{int(start):06d}_{int(end):06d}"
    folders = [f"{label}/", f"{split}/{label}/", f"{split}/", ""]
    candidates = [(f"{folder}{name}.mp4", name == video) for name in (cut, video) for folder in folders]
    file, whole = next(((c, w) for c, w in candidates if c in present), candidates[0])
    return Sample(
        sample_id=cut,
        path=file,
        root=str(root),
        labels=(label,) if label else (),
        split=split,
        start_s=start if whole else None,
        end_s=end if whole else None,
    )
