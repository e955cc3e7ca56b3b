"""Decode every sample of a manifest once, before any training meets what is broken in it.

`check` writes one Parquet file, a row for each sample:

    sample_id, path, split, labels     as in the manifest
    reasons                            why each decoder failed; empty for a sample that can be read
    decoder                            which one read it
    width, height, num_frames, num_claimed, duration_s, frame_rate_hz, codec, orientation, notes, num_bytes, sha256,
    hashes                             see `cfvid.data.probe`; null where there is none

While it works, what is done is in FILE.partial.jsonl: the same command goes on from there. Samples that could not be
read are tried again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from tqdm import tqdm

from cfvid.artifacts import atomic_file, digest_of, write_text
from cfvid.data.loader import Request, open_pool
from cfvid.data.manifest import Manifest, Sample
from cfvid.data.probe import probe
from cfvid.errors import DataError
from cfvid.sections.stages import RuntimeConfig

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("reasons", pa.list_(pa.string())),
        ("decoder", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_frames", pa.int64()),
        ("num_claimed", pa.int64()),
        ("duration_s", pa.float64()),
        ("frame_rate_hz", pa.float64()),
        ("codec", pa.string()),
        ("orientation", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("hashes", pa.list_(pa.uint64())),
    ]
)


def check(manifest: Manifest, out: Path, *, decoders: Sequence[str], runtime: RuntimeConfig) -> pa.Table:
    """Decode every sample, in guarded processes, and write what was found.

    Args:
        manifest: the samples.
        out: a .parquet file.
        decoders: of the modality, tried in this order.
        runtime: processes, deadline, memory.

    Returns:
        The rows, in the manifest's order.

    Raises:
        DataError: when `out` is no .parquet file.
    """
    if out.suffix.lower() != ".parquet":
        raise DataError(f"A check is written to a .parquet file, not {out.name!r}.")
    partial = out.with_suffix(".partial.jsonl")
    of_what = digest_of([manifest.digest, manifest.roots, list(decoders)])
    done = _done_before(partial, of_what)
    waiting = [sample for sample in manifest if sample.sample_id not in done]
    if done:
        logger.info("%d of %d samples were checked before", len(done), len(manifest))
    write_text(partial, "".join(map(_line, [{"of": of_what}, *done.values()])))  # without a line that was cut short
    with open(partial, "a", encoding="utf-8") as file:
        for row in tqdm(_rows(waiting, manifest, decoders, runtime), total=len(waiting), unit="sample", disable=None):
            file.write(_line(row))
            file.flush()
            done[row["sample_id"]] = row
    table = pa.Table.from_pylist([done[sample_id] for sample_id in manifest.ids], schema=SCHEMA)
    with atomic_file(out, check=pyarrow.parquet.read_metadata) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    partial.unlink()
    return table


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _done_before(partial: Path, of_what: str) -> dict[str, dict[str, Any]]:
    """The samples that a check of the same files, cut short, could read."""
    lines = partial.read_text(encoding="utf-8", errors="replace").splitlines() if partial.is_file() else []
    rows: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the last line, which was being written
            rows.append(json.loads(line))
    if rows and rows[0] != {"of": of_what}:
        logger.info("%s is of other samples or files; the check starts afresh", partial)
        return {}
    return {row["sample_id"]: row for row in rows[1:] if row["decoder"] is not None}


def _rows(
    samples: Sequence[Sample], manifest: Manifest, decoders: Sequence[str], runtime: RuntimeConfig
) -> Iterator[dict[str, Any]]:
    requests = (Request(s.sample_id, manifest.locate(s), s.start_s, s.end_s, "score", 0) for s in samples)
    with open_pool(probe, attempts=tuple(decoders), runtime=runtime) as pool:
        for sample, outcome in zip(samples, pool.imap(requests), strict=True):
            facts = {} if outcome.value is None else json.loads(np.asarray(outcome.value).tobytes())
            yield {
                "sample_id": sample.sample_id,
                "path": sample.path,
                "split": sample.split,
                "labels": list(sample.labels),
                "reasons": list(outcome.reasons),
                "decoder": outcome.attempt,
                **facts,
            }


def read_check(path: Path) -> pa.Table:
    """A check that was written before.

    Raises:
        DataError: when it cannot be read as one.
    """
    try:
        return pyarrow.parquet.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as a check.", why=str(error).splitlines()[0], fix="Make it with cfvid data check."
        ) from error


def of_split(table: pa.Table, split: str) -> pa.Table:
    """The rows of one split.

    Raises:
        DataError: naming the splits that there are, when it has none.
    """
    rows = table.filter(pc.equal(table["split"], split))
    if rows.num_rows == 0:
        there = ", ".join(sorted(set(table["split"].to_pylist())))
        raise DataError(f"The check has no samples in the split {split!r}.", fix=f"Its splits are {there}: --splits.")
    return rows


# ---------------------------------------------------------------------------------------------- in words


def summary(table: pa.Table) -> list[str]:
    """What a check found, in lines for people."""
    whole, unreadable = (table.filter(what(table["decoder"])) for what in (pc.is_valid, pc.is_null))
    lines = [f"{table.num_rows:,} samples, {unreadable.num_rows:,} of them cannot be read"]
    broken = Counter("; ".join(reasons) for reasons in unreadable["reasons"].to_pylist())
    lines += [f"    {count:,} x {reason}" for reason, count in broken.most_common(10)]
    cut = pc.sum(pc.fill_null(pc.less(whole["num_frames"], whole["num_claimed"]), False)).as_py() or 0
    lines += [f"{cut:,} videos end before their container says"] * bool(cut)
    noted = Counter(_without_numbers(note) for notes in whole["notes"].to_pylist() for note in notes or ())
    lines += [f"{count:,} x {note}" for note, count in noted.most_common(10)]
    lines += _by_class(table)
    for name, unit in (("duration_s", "s"), ("frame_rate_hz", "Hz"), ("width", "px"), ("height", "px")):
        lines += _spread(whole, name, unit)
    lines += [
        f"{name}: {_counts(whole[name].to_pylist())}" for name in ("codec", "decoder", "orientation") if whole.num_rows
    ]
    return lines + _duplicates(whole)


def _without_numbers(note: str) -> str:
    """Notes are counted: they must not differ from file to file."""
    return re.sub(r"\d+", "N", note)


def _by_class(table: pa.Table) -> list[str]:
    lines = []
    for split in sorted(set(table["split"].to_pylist())):
        labels = table.filter(pc.equal(table["split"], split))["labels"].to_pylist()
        sizes = sorted(Counter(label for several in labels for label in several).values())
        told = f"{sizes[0]:,} to {sizes[-1]:,} of each class ({len(sizes):,})" if sizes else "no labels"
        lines.append(f"{split}: {len(labels):,} samples, {told}")
    return lines


def _spread(table: pa.Table, name: str, unit: str) -> list[str]:
    values = [value for value in table[name].to_pylist() if value is not None]
    if not values:
        return []
    low, middle, high = np.percentile(values, [0, 50, 100])
    return [f"{name.removesuffix('_s').removesuffix('_hz')}: {low:g} to {high:g} {unit}, the median {middle:g}"]


def _counts(values: Sequence[str | None]) -> str:
    return ", ".join(f"{name or 'unknown'} ({count:,})" for name, count in Counter(values).most_common(6))


def _duplicates(table: pa.Table) -> list[str]:
    """Files with the same bytes; those in several splits are leaks."""
    places: dict[str, set[str]] = {}
    splits: dict[str, set[str]] = {}
    rows = zip(table["sha256"].to_pylist(), table["path"].to_pylist(), table["split"].to_pylist(), strict=True)
    for digest, path, split in rows:
        places.setdefault(digest, set()).add(path)
        splits.setdefault(digest, set()).add(split)
    twice = [paths for paths in places.values() if len(paths) > 1]
    across = sum(len(names) > 1 for names in splits.values())
    lines = [f"{len(twice):,} files have copies, e.g. {', '.join(sorted(twice[0])[:3])}"] if twice else []
    return lines + [f"{across:,} files are in several splits"] * bool(across)
