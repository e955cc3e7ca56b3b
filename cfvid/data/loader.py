"""From sample ids to batches: requests go through the guarded pool, and what cannot be read goes to the ledger."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from cfvid import launch
from cfvid.artifacts import digest_of
from cfvid.data.manifest import Manifest, Sample
from cfvid.data.skips import Skip, SkipLedger
from cfvid.media.clip_cache import ClipCache
from cfvid.media.guard import GuardedPool, Outcome, Work
from cfvid.media.image import pixel_limit
from cfvid.media.source import Media, Member, is_url, state_of
from cfvid.media.video import attempts_with
from cfvid.sections.stages import RuntimeConfig

logger = logging.getLogger(__name__)

_BLOCK_IDS = 256
"""Samples that are looked up in the manifest at a time."""

Look = Literal["train", "extract", "score", "preview"]
"""How a sample is looked at: one random view, the views averaged for features or for scores, or one for people."""


@dataclass(frozen=True)
class Request:
    """One look at one sample: all that a decoding process needs to know."""

    sample_id: str
    media: Media
    start_s: float | None
    end_s: float | None
    look: Look
    seed: int
    """Of the random draws of `train`."""
    cache: ClipCache | None = None
    """Where small frames are kept; see `cfvid.data.small_video`."""

    def __str__(self) -> str:
        return str(self.media)


@dataclass(frozen=True)
class Batch:
    """Decoded samples. Rows are named by `sample_ids`; absent samples have no row."""

    sample_ids: list[str]
    inputs: torch.Tensor
    """uint8, (N, V, C, ...): N samples of V views; the trailing dimensions are the modality's."""
    seeds: list[int]
    """Of each sample's random draws."""

    def __len__(self) -> int:
        return len(self.sample_ids)


def open_pool(work: Work, *, attempts: tuple[str, ...], runtime: RuntimeConfig) -> GuardedPool:
    """The guarded decoding processes of a stage; of `attempts`, the configured decoder of videos is tried first.

    Raises:
        MissingPackage: when that one is optional and does not work.
    """
    attempts = attempts_with(runtime.video_decoder, attempts)
    num_workers = runtime.num_workers
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(8, max(1, cores // launch.num_on_this_machine()))
        logger.debug("decoding in %d processes: one per core of this rank, at most 8", num_workers)
    elif num_workers == 0 and launch.rank() == 0:
        logger.warning("decoding in this process, without guard (runtime.num_workers is 0)")
    return GuardedPool(
        _Limited(work, runtime.max_image_megapixels),
        attempts=attempts,
        num_workers=num_workers,
        deadline_s=runtime.decode_deadline_s,
        memory_gb=runtime.decode_memory_gb,
    )


@dataclass(frozen=True)
class _Limited:
    """Work, wherever it is done, on pictures of limited size."""

    work: Work
    max_megapixels: float

    def __call__(self, payload: Any, attempt: str) -> np.ndarray:
        with pixel_limit(self.max_megapixels):
            return self.work(payload, attempt)


class SampleLoader:
    """Looks at the samples of a manifest by their ids.

    Args:
        manifest: the samples.
        pool: decodes `Request`s; samples that its first attempt cannot read are counted as fallbacks.
        ledger: takes what cannot be read.
        cache: of small frames, for modalities that use one.
        how: what the outcome of a look depends on besides the file, as JSON-like values.
        pin: batches lie in pinned memory, from which a GPU copies them while it computes.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        pool: GuardedPool,
        ledger: SkipLedger,
        cache: ClipCache | None = None,
        how: Any = None,
        pin: bool = False,
    ) -> None:
        self.manifest, self.ledger, self._how = manifest, ledger, how
        self._pool, self._cache, self._pin = pool, cache, pin

    def request(self, sample_id: str, *, look: Look, seed: int = 0) -> Request:
        """The request for one sample."""
        return self._request(self.manifest.sample(sample_id), look, seed)

    def _request(self, sample: Sample, look: Look, seed: int) -> Request:
        place = self.manifest.locate(sample)
        return Request(sample.sample_id, place, sample.start_s, sample.end_s, look, seed, self._cache)

    def _requests(self, sample_ids: Iterable[str], look: Look, seeds: Iterable[int]) -> Iterator[Request]:
        pairs = zip(sample_ids, seeds, strict=True)
        while block := list(itertools.islice(pairs, _BLOCK_IDS)):
            rows = self.manifest.ids.rows([sample_id for sample_id, _ in block])
            for sample, (_, seed) in zip(self.manifest.samples(rows), block, strict=True):
                yield self._request(sample, look, seed)

    def identity(self, sample_id: str) -> str | None:
        """Identify a sample's file as it is now, and how it is read; None for a file behind a URL.

        As long as it stays the same, what could not be read cannot be read. Behind a URL nothing tells whether what
        failed, maybe the network, has come back: such a sample is tried again whenever it is due.
        """
        media = self.manifest.locate(self.manifest.sample(sample_id))
        file = media.shard if isinstance(media, Member) else str(media)
        if is_url(file):
            return None
        return digest_of([state_of(media) or file, os.access(file, os.R_OK), self._how])[:16]

    def is_same(self, skip: Skip) -> bool:
        """Whether a sample that could not be read would not be read now either."""
        is_known = skip.identity is not None and skip.sample_id in self.manifest.ids
        return is_known and self.identity(skip.sample_id) == skip.identity

    def outcomes(self, requests: Iterable[Request], *, ahead: int, epoch: int = 0) -> Generator[Outcome]:
        """Every request's outcome, in order; failures are in the ledger by then, with the epoch."""
        for outcome in self._pool.imap(requests, ahead=ahead):
            request = outcome.payload
            if outcome.value is None:
                sample = self.manifest.sample(request.sample_id)
                identity = self.identity(request.sample_id)
                skip = Skip(request.sample_id, sample.path, outcome.reasons, identity, epoch)
                logger.debug("skipped %s: %s", request, "; ".join(outcome.reasons))
                if request.look != "train":  # which takes another view each time
                    self.ledger.remember(skip, look=request.look)
                self.ledger.add(skip)
            elif outcome.attempt != self._pool.attempts[0]:
                self.ledger.fallbacks[str(outcome.attempt)] += 1
            yield outcome

    def _left_out(self, sample_ids: Sequence[str], look: Look, before_epoch: int | None) -> set[int]:
        """The places of samples that are known to be unreadable; they are in the ledger by then."""
        places = set()
        for place, sample_id in enumerate(sample_ids):
            known = self.ledger.known(sample_id, look=look, before_epoch=before_epoch)
            if known is not None and self.is_same(known):
                places.add(place)
                self.ledger.add(known)
        return places

    def batches(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        look: Look,
        seeds: Iterable[int] | None = None,
        sizes: Sequence[int] | None = None,
        epoch: int | None = None,
    ) -> Iterator[Batch]:
        """Batches of `batch_size` consecutive ids; an unreadable sample makes its batch smaller.

        What is known to be unreadable is not tried again, as long as its file is the same.

        Args:
            sample_ids: which samples, in which order.
            batch_size: ids per batch.
            look: how they are looked at.
            seeds: of each sample's random draws.
            sizes: ids of each batch, where these are not all `batch_size` and at last the rest.
            epoch: of a training, whose looks differ: what failed in earlier ones counts as known, so that an epoch has
                the same samples however often it is resumed.
        """
        seeds = seeds if seeds is not None else itertools.repeat(0, len(sample_ids))
        if sizes is None:
            whole, rest = divmod(len(sample_ids), batch_size)
            sizes = [batch_size] * whole + [rest] * (rest > 0)
        left_out = self._left_out(sample_ids, look, epoch)
        if left_out:
            kept = [place not in left_out for place in range(len(sample_ids))]
            sizes = [sum(kept[end - size : end]) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
            sample_ids, seeds = list(itertools.compress(sample_ids, kept)), itertools.compress(seeds, kept)
        requests = self._requests(sample_ids, look, seeds)
        # Up to three batches ahead: one being used, one whole, one being decoded.
        with contextlib.closing(self.outcomes(requests, ahead=3 * batch_size, epoch=epoch or 0)) as outcomes:
            for size in sizes:
                yield _stacked([o for o in itertools.islice(outcomes, size) if o.value is not None], pin=self._pin)


def _stacked(outcomes: Sequence[Outcome], *, pin: bool) -> Batch:
    if not outcomes:
        return Batch([], torch.empty(0, dtype=torch.uint8), [])
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    inputs = torch.empty((len(values), *values[0].shape), dtype=torch.uint8, pin_memory=pin)
    np.stack(values, out=inputs.numpy())
    payloads = [outcome.payload for outcome in outcomes]
    return Batch([p.sample_id for p in payloads], inputs, [p.seed for p in payloads])


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches whose inputs are on the device.

    For a GPU another thread puts the next batch together and copies it there, while one is worked on.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)

    def following() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(copies):
            inputs = batch.inputs.to(device, non_blocking=True)
        copies.synchronize()
        return replace(batch, inputs=inputs)

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(following)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(following)
            # Its memory must not be given away while this stream still reads it.
            batch.inputs.record_stream(torch.cuda.current_stream(device))
            yield batch
