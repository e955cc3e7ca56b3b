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
from cfvid.data.manifest import Manifest, Sample
from cfvid.data.skips import Skip, SkipLedger
from cfvid.media.clip_cache import ClipCache
from cfvid.media.guard import GuardedPool, Outcome, Work
from cfvid.media.image import pixel_limit
from cfvid.media.source import Media
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
        pin: batches lie in pinned memory, from which a GPU copies them while it computes.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        pool: GuardedPool,
        ledger: SkipLedger,
        cache: ClipCache | None = None,
        pin: bool = False,
    ) -> None:
        self.manifest, self.ledger = manifest, ledger
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

    def outcomes(self, requests: Iterable[Request], *, ahead: int) -> Generator[Outcome]:
        """Every request's outcome, in order; failures are in the ledger by then."""
        for outcome in self._pool.imap(requests, ahead=ahead):
            request = outcome.payload
            if outcome.value is None:
                sample = self.manifest.sample(request.sample_id)
                self.ledger.add(Skip(request.sample_id, sample.path, outcome.reasons))
                logger.debug("skipped %s: %s", request, "; ".join(outcome.reasons))
            elif outcome.attempt != self._pool.attempts[0]:
                self.ledger.fallbacks[str(outcome.attempt)] += 1
            yield outcome

    def batches(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        look: Look,
        seeds: Iterable[int] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """Batches of `batch_size` consecutive ids; an unreadable sample makes its batch smaller.

        Args:
            sample_ids: which samples, in which order.
            batch_size: ids per batch.
            look: how they are looked at.
            seeds: of each sample's random draws.
            sizes: ids of each batch, where these are not all `batch_size` and at last the rest.
        """
        seeds = seeds if seeds is not None else itertools.repeat(0, len(sample_ids))
        if sizes is None:
            whole, rest = divmod(len(sample_ids), batch_size)
            sizes = [batch_size] * whole + [rest] * (rest > 0)
        requests = self._requests(sample_ids, look, seeds)
        # Up to three batches ahead: one being used, one whole, one being decoded.
        with contextlib.closing(self.outcomes(requests, ahead=3 * batch_size)) as outcomes:
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
