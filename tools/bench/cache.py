"""cache: training looks of a later epoch, read from the clip cache, against the same looks decoded.

Both sides go through guarded processes and make decoded frames small first; a check before the timing counts how many
views are identical. A note gives the first epoch's rate, which decodes whole videos to fill the cache.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cfvid.data.folders import read_folder
from cfvid.data.loader import SampleLoader, open_pool
from cfvid.data.manifest import Manifest
from cfvid.data.skips import SkipLedger
from cfvid.media.clip_cache import ClipCache
from cfvid.media.guard import GuardedPool
from cfvid.modalities.video import VideoInput, VideoModality
from cfvid.sections.stages import RuntimeConfig
from tools.bench.decode import drain, num_identical
from tools.bench.media import make_videos
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, rate_of

_BATCH = 8
_LIMIT_BYTES = 4 * 10**9


@dataclass(frozen=True)
class Size:
    """How much is read."""

    num_videos: int
    rounds: int
    decoders: tuple[str, ...]
    """Each first in a comparison of its own."""


SIZES = {
    "smoke": Size(num_videos=4, rounds=1, decoders=("pyav",)),
    "small": Size(num_videos=64, rounds=5, decoders=("decord", "pyav")),
}
VIDEO = VideoInput(num_frames=8, frame_rate_hz=7.5, crop_size=112, resize=128, cache_short_side=128)


def run(options: Options) -> Iterator[Comparison]:
    """One comparison for each decoder that may come first."""
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="cfvid-bench-") as name:
        videos = options.videos or make_videos(Path(name) / "videos", count=size.num_videos)
        manifest = read_folder(videos, suffixes=VideoModality.suffixes)
        for decoder in size.decoders:
            cache = ClipCache(str(Path(name) / f"cache-{decoder}"), _LIMIT_BYTES, 5.0)
            cache.begin()
            yield _compare(manifest, decoder, cache, options, size)


def _compare(manifest: Manifest, decoder: str, cache: ClipCache, options: Options, size: Size) -> Comparison:
    modality = VideoModality(VIDEO)
    runtime = RuntimeConfig.model_validate({"num_workers": options.workers, "video_decoder": decoder})
    with contextlib.ExitStack() as stack:
        # A pool of its own for each side: what one has in its memory shall not help the other.
        pools = [
            stack.enter_context(open_pool(modality.load, attempts=modality.decoders, runtime=runtime)) for _ in range(2)
        ]
        decodes, reads = partial(_epoch, manifest, pools[0], None), partial(_epoch, manifest, pools[1], cache)
        drain(decodes(seed=0))
        drain(_epoch(manifest, pools[1], None, seed=0))
        filling = rate_of(lambda: drain(reads(seed=0)), units=len(manifest))
        identical = num_identical(list(reads(seed=1)), list(decodes(seed=1)))
        rates = alternate(
            lambda: rate_of(lambda: drain(decodes(seed=2)), units=len(manifest)),
            lambda: rate_of(lambda: drain(reads(seed=2)), units=len(manifest)),
            rounds=options.rounds or size.rounds,
        )
    return Comparison(
        benchmark="cache",
        what=f"short files, train, {decoder} first, from the cache",
        reference="decoded",
        unit="clips/s",
        goal=None,
        candidate_rates=rates[0],
        reference_rates=rates[1],
        notes={
            "workers": options.workers,
            "identical outputs": f"{identical}/{len(manifest)}",
            "clips/s while filling": filling,
            "MB per video": cache.used_bytes() / len(manifest) / 1e6,
        },
    )


def _epoch(manifest: Manifest, pool: GuardedPool, cache: ClipCache | None, *, seed: int) -> Iterator[Any]:
    ledger = SkipLedger(num_samples=len(manifest), budget=1.0, stage="bench")
    loader = SampleLoader(manifest, pool=pool, ledger=ledger, cache=cache)
    seeds = [seed * len(manifest) + number for number in range(len(manifest))]
    for batch in loader.batches(manifest.ids, batch_size=_BATCH, look="train", seeds=seeds):
        yield batch.inputs
