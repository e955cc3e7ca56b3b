"""Contact sheets: pictures of some clusters' samples, the nearest to the centroid first."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image

from cfvid.data.loader import Request, SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.data.skips import SkipLedger
from cfvid.errors import DataError
from cfvid.report.problems import tolerant
from cfvid.stages.context import Run

logger = logging.getLogger(__name__)

_LARGEST_SIDES = (640, 176)
"""Width and height that a thumbnail has at most; film strips are wide."""
_JPEG_QUALITY = 74
_AHEAD = 16


@dataclass
class Thumbnail:
    """One sample on a sheet."""

    sample_id: str
    distance: float
    """To the centroid, squared, in the space that was clustered."""
    labels: tuple[str, ...] = ()
    jpeg: bytes | None = None
    """None when the sample is unreadable."""
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels."""
    reason: str = "the media are not there"
    """Why there is no picture."""

    @property
    def wide(self) -> bool:
        """Whether the picture is a film strip rather than a still."""
        return self.size[0] > 2.5 * self.size[1]


@dataclass
class Sheet:
    """Some samples of one cluster."""

    cluster: int
    num_samples: int
    mean_distance: float
    thumbnails: list[Thumbnail]
    top_label: str | None = None
    """The most frequent label among the cluster's samples that have labels."""
    top_share: float | None = None
    """The share of those samples that carry it."""


@dataclass
class Sheets:
    """All sheets of a report."""

    sheets: list[Sheet] = field(default_factory=list)
    median_distance: float = 0.0
    """Of all clusters' mean distances."""
    problems: list[str] = field(default_factory=list)
    """Why there are no sheets, or no pictures in them."""


def make_sheets(run: Run) -> Sheets:
    """The contact sheets of a run; never fails because of what the clusters' samples are."""
    path = run.folder / "cluster" / "pseudo_labels.parquet"
    config = run.config.report
    result = Sheets()
    if not path.is_file() or config.num_sheet_clusters == 0:
        return result
    with tolerant(result.problems, "The pseudo-labels cannot be read"):
        _choose(result, path, config.num_sheet_clusters, config.num_sheet_samples)
    if not result.sheets:
        return result
    with tolerant(result.problems, "The samples' media cannot be shown"):
        pool = run.manifest("clusterfit")
        _add_labels(result.sheets, path, pool)
        _add_pictures(run, result.sheets, pool)
    return result


def _choose(result: Sheets, path: Path, num_clusters: int, num_samples: int) -> None:
    table = pyarrow.parquet.read_table(path, columns=["sample_id", "cluster", "distance"])
    clusters, distances = table["cluster"].to_numpy(), table["distance"].to_numpy().astype(np.float64)
    sizes = np.bincount(clusters)
    means = np.bincount(clusters, weights=distances) / np.maximum(sizes, 1)
    result.median_distance = float(np.median(means[sizes > 0]))
    for cluster in choose_clusters(sizes, means, num_clusters):
        rows = np.flatnonzero(clusters == cluster)
        ids = table["sample_id"].take(rows).to_pylist()
        nearest = sorted(zip(distances[rows].tolist(), ids, strict=True))[:num_samples]
        thumbnails = [Thumbnail(sample_id, distance) for distance, sample_id in nearest]
        result.sheets.append(Sheet(cluster, len(rows), float(means[cluster]), thumbnails))


def choose_clusters(sizes: np.ndarray, mean_distances: np.ndarray, num: int) -> list[int]:
    """Clusters that differ in size and tightness, the largest first.

    The clusters in order of size are cut into `num` groups; from these the tightest and the loosest one are taken in
    turn.

    Args:
        sizes: int64, (K,); empty clusters are never chosen.
        mean_distances: float64, (K,).
        num: how many; all where there are fewer.
    """
    used = np.flatnonzero(sizes)
    by_size = used[np.lexsort((used, mean_distances[used], -sizes[used]))]
    chosen = []
    for place, group in enumerate(np.array_split(by_size, min(num, len(by_size)))):
        order = group[np.argsort(mean_distances[group], kind="stable")]
        chosen.append(int(order[0 if place % 2 == 0 else -1]))
    return chosen


def _add_labels(sheets: Sequence[Sheet], path: Path, pool: Manifest) -> None:
    labels = pool.labels_by_id
    shown = {sheet.cluster: sheet for sheet in sheets}
    names: dict[int, Counter[str]] = {cluster: Counter() for cluster in shown}
    num_labelled: Counter[int] = Counter()
    table = pyarrow.parquet.read_table(path, columns=["sample_id", "cluster"])
    for sample_id, cluster in zip(table["sample_id"].to_pylist(), table["cluster"].to_pylist(), strict=True):
        if cluster in shown and sample_id in labels:
            names[cluster].update(set(labels[sample_id]))
            num_labelled[cluster] += 1
    for cluster, sheet in shown.items():
        if names[cluster]:
            sheet.top_label, count = min(names[cluster].items(), key=lambda item: (-item[1], item[0]))
            sheet.top_share = count / num_labelled[cluster]
        for thumbnail in sheet.thumbnails:
            thumbnail.labels = labels.get(thumbnail.sample_id, ())


def _add_pictures(run: Run, sheets: Sequence[Sheet], pool: Manifest) -> None:
    thumbnails = {t.sample_id: t for sheet in sheets for t in sheet.thumbnails}
    known = [sample_id for sample_id in thumbnails if sample_id in pool.ids]
    for sample_id in thumbnails.keys() - set(known):
        thumbnails[sample_id].reason = "no longer among the samples"
    if not known:
        return
    shown = pool.select(known)
    with run.loader(shown, stage="report") as loader:
        # A page about a run must come out even when nothing can be read any more: no budget here.
        loader.ledger = SkipLedger(num_samples=len(shown), budget=1.0, stage="report")
        requests = [request for sample_id in known if (request := _request(loader, thumbnails[sample_id]))]
        for outcome in loader.outcomes(requests, ahead=_AHEAD):
            thumbnail = thumbnails[outcome.payload.sample_id]
            if outcome.value is None:
                thumbnail.reason = outcome.reasons[-1] if outcome.reasons else "unknown"
            else:
                thumbnail.jpeg, thumbnail.size = shrink(outcome.value)
    unreadable = sum(t.jpeg is None for t in thumbnails.values())
    if unreadable:
        logger.info("report: %d of %d samples for the contact sheets are unreadable", unreadable, len(thumbnails))


def _request(loader: SampleLoader, thumbnail: Thumbnail) -> Request | None:
    try:
        return loader.request(thumbnail.sample_id, look="preview")
    except (DataError, OSError) as error:  # its path leads out of its root by now
        thumbnail.reason = str(error).splitlines()[0]
        return None


def shrink(pixels_HWC: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """A picture as a small JPEG.

    Args:
        pixels_HWC: uint8, (H, W, 3).

    Returns:
        The JPEG's bytes, its width and height.
    """
    image = Image.fromarray(pixels_HWC)
    image.thumbnail(_LARGEST_SIDES, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue(), image.size
