"""WebDataset shards as a manifest: members of tars are grouped by key, and one member of each group is the sample.

    KEY.jpg, KEY.mp4, ...   the sample; the key is the path up to the first dot of its last part
    KEY.json                label or labels, split, start_s, end_s, unsure_labels, group, sample_id: all optional
    KEY.cls, KEY.txt        the label, where the JSON has none

No other member is ever opened, so that pickles (.pyd, .pth, .npy) do nothing. Sample ids are those in the JSON, else
keys; where one key stands in two shards, all keys of the source have their shard's name in front.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from cfvid.data.left_out import is_system_name, told_suffixes
from cfvid.data.manifest import Manifest, Sample, from_samples, member_path
from cfvid.data.shard_names import SUFFIX, Shards, find_shards
from cfvid.data.split_names import role_of
from cfvid.data.tar_index import LABEL_SUFFIXES, read_indexes
from cfvid.errors import DataError

logger = logging.getLogger(__name__)

_KEY = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
_NUMBER = re.compile(r"[-_.]*\d*$")


def read_shards(
    path: str,
    *,
    suffixes: Collection[str],
    cache: Path,
    train_split: str | None = None,
    val_split: str | None = None,
    label_separator: str | None = None,
    trusted_roots: Sequence[str] = (),
) -> Manifest:
    """All samples of the shards that a path, a pattern, a folder or a URL names.

    The split is that of the JSON, else of the shard: the last word in its path, from its folder's name on,
    that is `train_split` or `val_split`; where no shard is named so and neither was given, the last usual name of a
    split, as long as one of them means training.
    Where some shards are named so, the others' split is their own name without the number; where none is, all are
    `train_split`.

    Args:
        path: see `cfvid.data.shard_names`.
        suffixes: endings of members that are media.
        cache: where indexes of shards are kept.
        train_split: the source's name of it, where the user gave it; by default `train`.
        val_split: the same of validation; by default `val`.
        label_separator: splits the label text into several labels.
        trusted_roots: folders that links may lead to.

    Raises:
        DataError: when a shard cannot be used, two members of a key are media, or a JSON is none of this kind.
    """
    shards = find_shards(path, trusted_roots=trusted_roots)
    splits = _splits_of(shards, train_split, val_split)
    found: list[_Found] = []
    others: Counter[str] = Counter()
    for name, index in zip(shards.names, read_indexes(shards.places, cache=cache), strict=True):
        found += _samples_in(index, name, suffixes, others, label_separator)
    if others:
        logger.info("%s: members that are no media of this modality were ignored: %s", path, told_suffixes(others))
    samples = [
        replace(
            one.sample,
            sample_id=one.sample_id or one.key,
            root=shards.root,
            split=splits[one.shard] if one.split is None else one.split,
        )
        for one in _with_distinct_ids(found, path)
    ]
    return from_samples(samples, trusted_roots=trusted_roots)


@dataclass(frozen=True)
class _Found:
    shard: str
    key: str
    sample_id: str | None
    """As the JSON has it."""
    split: str | None
    sample: Sample
    """But for its id, root and split."""


def _with_distinct_ids(found: Sequence[_Found], path: str) -> Iterator[_Found]:
    ids = Counter(one.sample_id or one.key for one in found)
    collide = any(ids[one.key] > 1 for one in found if one.sample_id is None)
    if collide:
        logger.info("%s: keys occur in several shards; ids have the shard's name in front", path)
    for one in found:
        key = f"{one.shard.removesuffix(SUFFIX)}/{one.key}" if collide else one.key
        yield replace(one, sample_id=one.sample_id or key)


def _splits_of(shards: Shards, train_split: str | None, val_split: str | None) -> dict[str, str]:
    known, otherwise = (train_split or "train", val_split or "val"), train_split or "train"
    named = _words_of(shards, lambda word: word in known)
    if not any(named.values()) and train_split is None and val_split is None:
        usual = _words_of(shards, lambda word: role_of(word) is not None)
        named = usual if any(word and role_of(word) == "train" for word in usual.values()) else named
    if any(named.values()):
        otherwise = ""
    return {shard: split or otherwise or _NUMBER.sub("", PurePosixPath(shard).stem) for shard, split in named.items()}


def _words_of(shards: Shards, is_split: Callable[[str], bool]) -> dict[str, str | None]:
    """Find, for each shard, the last word of its path that is the name of a split; its folder's name counts too."""
    named = {}
    for shard in shards.names:
        words = re.split(r"[-_./]", f"{PurePosixPath(shards.root).name}/{shard}")
        named[shard] = next((word for word in reversed(words) if is_split(word)), None)
    return named


# ---------------------------------------------------------------------------------------------- one shard


def _samples_in(
    index: pa.Table, shard: str, suffixes: Collection[str], others: Counter[str], separator: str | None
) -> Iterator[_Found]:
    """The samples of a shard, in its order; counts the members that are of no use."""
    media: dict[str, dict[str, Any]] = {}
    labels: dict[str, dict[str, dict[str, Any]]] = {}
    for row in index.to_pylist():
        parts = _KEY.match(row["name"])
        if any(map(is_system_name, row["name"].split("/"))):
            others["hidden or of a system"] += 1
            continue
        if parts is None:
            others[""] += 1
            continue
        key, ending = parts[1], f".{parts[2].lower()}"
        if ending in LABEL_SUFFIXES:
            labels.setdefault(key, {})[ending] = row
        elif PurePosixPath(row["name"]).suffix.lower() not in suffixes:
            others[ending] += 1
        else:
            row["plain"] = ending in suffixes
            media[key] = _the_sample(media.get(key), row, shard, key)
    for key, row in media.items():
        yield _found(shard, key, row, labels.get(key, {}), separator)


def _the_sample(first: dict[str, Any] | None, second: dict[str, Any], shard: str, key: str) -> dict[str, Any]:
    """Of two members with one key, `key.jpg` is the sample and `key.mask.jpg` is not."""
    if first is None or first["plain"] != second["plain"]:
        return second if first is None or second["plain"] else first
    raise DataError(
        f"{shard} has two samples of the key {key!r}: {first['name']} and {second['name']}.",
        why="a key ends at the first dot of the last part of a name, and has one sample",
        fix="Name members without further dots, or write the shards with cfvid data shard.",
    )


def _found(
    shard: str, key: str, row: dict[str, Any], labels: dict[str, dict[str, Any]], separator: str | None
) -> _Found:
    told: dict[str, Any] = {}
    if ".json" in labels:
        told = _read_json(labels[".json"]["text"], f"{shard}: {labels['.json']['name']}")
    texts = told.get("labels") or [labels[kind]["text"].strip() for kind in (".cls", ".txt") if kind in labels][:1]
    sample = Sample(
        sample_id=key,
        path=member_path(shard, row["name"]),
        root="",
        labels=tuple(part for text in texts for part in (text.split(separator) if separator else [text]) if part),
        split="",
        start_s=told.get("start_s"),
        end_s=told.get("end_s"),
        unsure_labels=tuple(told.get("unsure_labels", ())),
        member_offset=row["offset"],
        member_size=row["size"],
        group=told.get("group"),
    )
    return _Found(shard, key, told.get("sample_id"), told.get("split"), sample)


def _read_json(text: str, place: str) -> dict[str, Any]:
    """What a JSON member says of its sample; whatever else stands there is left alone."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):  # annotations of another kind
            return {}
        told: dict[str, Any] = {}
        for name in ("sample_id", "split", "group"):
            if value.get(name) is not None and (value[name] != "" or name == "split"):
                told[name] = _text(value[name], name)
        for name in ("start_s", "end_s"):
            if value.get(name) is not None:
                told[name] = _number(value[name], name)
        for name, key in (("labels", "labels"), ("labels", "label"), ("unsure_labels", "unsure_labels")):
            if value.get(key) is not None:
                several = value[key] if isinstance(value[key], list) else [value[key]]
                told.setdefault(name, [_text(one, key) for one in several])
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{place} does not describe a sample.", why=str(error) or type(error).__name__) from error
    return told


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"its {name} is {type(value).__name__}, not text")
    return str(value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"its {name} is no number")
    return float(value)
