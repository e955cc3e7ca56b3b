"""Writing samples as WebDataset shards: media bytes unchanged, what the manifest says of each beside them.

    FOLDER/
      inputs.json               which samples, cut into which shards
      SPLIT-000000.tar          KEY.EXT and KEY.json of each sample, sorted by sample id
      skips.jsonl               samples without a file, which are left out; only where there are any
      record.json               digests of all; written last: readers refuse a folder without it

The same samples give the same bytes. A writing that was stopped goes on with the shard that it was at.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote

from tqdm import tqdm

from cfvid.artifacts import INPUTS_NAME, Record, atomic_file, claim, digest_of
from cfvid.data.manifest import Manifest, Sample
from cfvid.data.shard_names import SUFFIX
from cfvid.data.skips import LEDGER_NAME, Skip, write_skips
from cfvid.errors import DataError, InputsChanged, UnreadableSample
from cfvid.folder_lock import own_folder
from cfvid.media.source import MAX_MEMBER_BYTES, Member, read_bytes

KIND = "shards"
_FORMAT = 1
_LONGEST_KEY = 200
_OVERHEAD_BYTES = 2048
"""Of a sample in a tar: two headers, the JSON, and what fills up blocks."""


@dataclass(frozen=True)
class Written:
    """What a folder of shards holds."""

    shards: list[str]
    num_samples: int
    num_left_out: int


@dataclass(frozen=True)
class _Item:
    """One sample on its way into a shard."""

    sample: Sample
    media: Path | Member
    size: int
    name: str = ""
    """Without its ending, once all samples are known."""


def write_shards(
    manifest: Manifest,
    folder: Path,
    *,
    suffixes: Collection[str],
    samples_per_shard: int | None = None,
    bytes_per_shard: int | None = None,
) -> Written:
    """Write all samples of a manifest as tar shards, each split into its own.

    Args:
        manifest: the samples; a file that several of them are segments of is written for each.
        folder: a new one, or one that the same call was stopped in.
        suffixes: endings of media, which the reader will go by.
        samples_per_shard: at most so many.
        bytes_per_shard: at most so many, but for a sample that is larger by itself.

    Raises:
        DataError: when no sample has a file, a file's ending is none of the modality's, or the folder has shards that
            were not written by this.
        InputsChanged: when the folder was begun with other samples or sizes.
    """
    items, skips = _files_of(manifest, suffixes)
    plan = dict(_plan(items, samples_per_shard, bytes_per_shard))
    layout = [[shard, [[i.sample.sample_id, i.name, i.size] for i in part]] for shard, part in plan.items()]
    inputs = {"format": _FORMAT, "manifest": manifest.digest, "layout": digest_of(layout)}
    written = Written(list(plan), len(items), len(skips))
    if any(folder.glob(f"*{SUFFIX}")) and not (folder / INPUTS_NAME).is_file():
        raise DataError(f"{folder} has shards that cfvid did not write.", fix="Name another folder with --out.")
    with own_folder(folder):
        if _claim(folder, inputs):
            return written
        with tqdm(total=len(items), unit="sample", disable=None) as progress:
            for shard, part in plan.items():
                if not (folder / shard).is_file():
                    _write_shard(folder / shard, part, progress.update)
                else:
                    progress.update(len(part))
        if skips:
            write_skips(folder / LEDGER_NAME, skips)
        files = [*plan, *([LEDGER_NAME] if skips else [])]
        facts = {"num_samples": len(items), "num_left_out": len(skips)}
        Record.write(folder, kind=KIND, inputs=inputs, files=files, facts=facts)
    return written


def _claim(folder: Path, inputs: dict[str, Any]) -> bool:
    try:
        return claim(folder, inputs)
    except InputsChanged as error:
        raise InputsChanged(error.what, fix="Name another folder with --out, or delete this one.") from error


# ---------------------------------------------------------------------------------------------- the plan


def _files_of(manifest: Manifest, suffixes: Collection[str]) -> tuple[list[_Item], list[Skip]]:
    """What goes into shards, sorted, and what has no file."""
    items, skips = [], []
    for sample in sorted(manifest, key=lambda sample: sample.sample_id):
        media = manifest.locate(sample)
        if PurePosixPath(sample.path).suffix.lower() not in suffixes:
            raise DataError(
                f"Sample {sample.sample_id} has the file {sample.path}, which would not be taken for a sample again.",
                why=f"media of this modality end in {', '.join(sorted(suffixes))}",
            )
        size = media.size if isinstance(media, Member) else media.stat().st_size if media.is_file() else None
        if size is None or size > MAX_MEMBER_BYTES:
            reason = "no such file" if size is None else f"larger than {MAX_MEMBER_BYTES} bytes"
            skips.append(Skip(sample.sample_id, sample.path, (reason,)))
        else:
            items.append(_Item(sample, media, size))
    if not items:
        raise DataError("None of the samples has a file.", fix="Check the source and its media_root.")
    return items, skips


def _plan(items: list[_Item], max_samples: int | None, max_bytes: int | None) -> Iterator[tuple[str, list[_Item]]]:
    """Each shard's name and samples."""
    keys = _keys_of(items)
    by_split: dict[str, list[list[_Item]]] = {}
    sizes: dict[str, int] = {}
    for item, key in zip(items, keys, strict=True):
        split = item.sample.split
        shards = by_split.setdefault(split, [])
        size = item.size + _OVERHEAD_BYTES
        full = not shards or len(shards[-1]) == max_samples
        if full or (max_bytes is not None and sizes[split] + size > max_bytes):
            shards.append([])
            sizes[split] = 0
        shards[-1].append(_Item(item.sample, item.media, item.size, key))
        sizes[split] += size
    for split, shards in sorted(by_split.items()):
        prefix = quote(split, safe=" ").replace(".", "%2E") or "unnamed"
        for number, part in enumerate(shards):
            yield f"{prefix}-{number:06d}{SUFFIX}", part


def _keys_of(items: list[_Item]) -> list[str]:
    """WebDataset's keys: sample ids where these can be file names, without the dots at which a key would end."""
    readable = [_readable_key(item.sample) for item in items]
    counts = Counter(readable)
    return [
        key if key is not None and counts[key] == 1 else hashlib.sha256(item.sample.sample_id.encode()).hexdigest()[:32]
        for key, item in zip(readable, items, strict=True)
    ]


def _readable_key(sample: Sample) -> str | None:
    ending = PurePosixPath(sample.path).suffix
    *folders, last = sample.sample_id.removesuffix(ending).split("/")
    key = "/".join([*folders, last.replace(".", "_")])
    odd = any(part == "" or part.startswith(".") for part in folders) or last == ""
    has_controls = any(ord(character) < 32 for character in key)
    return None if odd or has_controls or len(key.encode()) > _LONGEST_KEY else key


# ---------------------------------------------------------------------------------------------- the bytes


def _write_shard(path: Path, items: list[_Item], tell: Callable[[int], Any]) -> None:
    with atomic_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for item in items:
            _add(archive, f"{item.name}{PurePosixPath(item.sample.path).suffix.lower()}", item)
            about = json.dumps(_about(item.sample), sort_keys=True, ensure_ascii=False).encode()
            archive.addfile(_info(f"{item.name}.json", len(about)), io.BytesIO(about))
            tell(1)


def _add(archive: tarfile.TarFile, name: str, item: _Item) -> None:
    try:
        with _content(item.media) as content:
            archive.addfile(_info(name, item.size), content)
    except (UnreadableSample, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):  # tarfile tells of no number
            raise
        raise DataError(
            f"{item.media} has changed while shards were written.", why=str(error), fix="Run the command again."
        ) from error


def _content(media: Path | Member) -> BinaryIO:
    return io.BytesIO(read_bytes(media)) if isinstance(media, Member) else open(media, "rb")


def _info(name: str, size: int) -> tarfile.TarInfo:
    """A header that tells nothing of the machine: time, user and group are 0."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _about(sample: Sample) -> dict[str, Any]:
    """What a reader gets the sample's row from, without what is empty."""
    about: dict[str, Any] = {"sample_id": sample.sample_id, "split": sample.split}
    if sample.labels:
        about |= {"label": sample.labels[0]} if len(sample.labels) == 1 else {"labels": list(sample.labels)}
    if sample.unsure_labels:
        about["unsure_labels"] = list(sample.unsure_labels)
    return about | {n: getattr(sample, n) for n in ("start_s", "end_s", "group") if getattr(sample, n) is not None}
