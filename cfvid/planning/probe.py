"""How fast this machine is at a run's own work: a few samples decoded, a few steps computed, a few points compared.

Nothing is written. Samples are decoded by the run's own guarded processes, with its decoders, looks and deadline; the
networks are new ones of the run's architectures and see blank views of the samples' shape, which cost them the same.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import psutil
import torch
from torch import nn

from cfvid.clustering.passes import accumulate
from cfvid.data.loader import Batch, SampleLoader, open_pool
from cfvid.data.skips import SkipLedger
from cfvid.errors import DataError
from cfvid.media.guard import GuardedPool, Outcome
from cfvid.planning.footprint import Footprint, footprint_of
from cfvid.planning.work import Looks, Pass, Search, Work
from cfvid.seeds import stream
from cfvid.stages.context import Run
from cfvid.training.device import memory_format
from cfvid.training.objective import examples_of, loss_of
from cfvid.training.optim import build_optimizer, freeze

MEASURED_S = 10.0
"""Shared out among all that is measured; each thing is done once at least, whatever it takes."""
_MOST_SAMPLES = 256
"""Decoded for one look."""
_FEWEST_TRIED = 8
"""Before it is said that none can be read, and for as long as there is time."""
_MOST_STEPS = 10
_FEWEST = 2
"""Samples of the smallest step: batch normalisation has no statistics over one."""
_NUM_POINTS = 4096
_MOST_CENTROID_BYTES = 128 * 2**20


@dataclass
class Rates:
    """What was measured; keys are those of `Looks` and `Pass`."""

    decode_s: dict[Hashable, float] = field(default_factory=dict)
    """Seconds of a sample, all decoding processes together."""
    compute_s: dict[Hashable, float] = field(default_factory=dict)
    """Seconds of a view: forward, or a whole step of training."""
    footprints: dict[Hashable, Footprint] = field(default_factory=dict)
    comparison_s: float = 0.0
    """Seconds of comparing a point with a centroid."""
    startup_s: float = 0.0
    """Seconds until a stage's decoding processes give their first samples."""
    num_workers: int = 0
    """Decoding processes; 0 where this process decodes."""
    worker_bytes: int = 0
    """Memory of the decoding processes."""
    own_bytes: int = 0
    """Memory of this process before anything was measured."""
    load: float = 0.0
    """Processes that wanted a core before anything was measured, over the last minute."""
    num_decoded: int = 0
    num_unreadable: int = 0
    """Of these."""
    seconds: float = 0.0
    """That all of this took."""


def measure(run: Run, works: Sequence[Work], *, measured_s: float = MEASURED_S) -> Rates:
    """Measure what these works consist of.

    Args:
        run: modality, device, precision, runtime settings.
        works: those that are done before are left out.
        measured_s: seconds to spend, in about equal parts; starting the decoding processes comes on top.

    Raises:
        DataError: when none of the samples that were tried for a look can be read.
    """
    start, rates = time.monotonic(), Rates(own_bytes=psutil.Process().memory_info().rss, load=psutil.getloadavg()[0])
    todo = [work for work in works if not work.is_done]
    passes = {one.key: one for work in todo for one in work.passes}
    looks = {one.looks.key: one for work in todo for one in work.passes}
    searches = [work.search for work in todo if work.search is not None]
    share_s = measured_s / max(1, len(passes) + len(looks) + len(searches))
    _measure_decoding(run, list(looks.values()), rates, share_s=share_s)
    for key, one in passes.items():
        rates.footprints[key] = footprint_of(one)
        rates.compute_s[key] = _view_seconds(run, one, rates.footprints[key], share_s=share_s)
    for search in searches:
        rates.comparison_s = _comparison_seconds(run, search, share_s=share_s)
    rates.seconds = time.monotonic() - start
    return rates


# ---------------------------------------------------------------------------------------------- decoding


def _measure_decoding(run: Run, passes: Sequence[Pass], rates: Rates, *, share_s: float) -> None:
    """Fill in all that is about decoding; modalities of equal options share their processes."""
    startups = []
    ordered = sorted(passes, key=lambda one: one.looks.modality_key)
    for _, group in groupby(ordered, key=lambda one: one.looks.modality_key):
        own = list(group)
        with _pool(run, own[0].looks) as pool:
            startups.append(_startup_seconds(run, pool, own[0].looks, rates))
            for one in own:
                rates.decode_s[one.looks.key] = _sample_seconds(run, pool, one, rates, share_s=share_s)
            if rates.num_workers:
                rates.worker_bytes = max(rates.worker_bytes, _memory_of_children())
    if len(startups) == 1 and rates.num_workers:
        # The first one also waits for the server that forks them, which is there for all later ones.
        with _pool(run, ordered[0].looks) as pool:
            startups.append(_startup_seconds(run, pool, ordered[0].looks, rates))
    rates.startup_s = min(startups, default=0.0)


def _pool(run: Run, looks: Looks) -> GuardedPool:
    return open_pool(looks.modality.load, attempts=looks.modality.decoders, runtime=run.config.runtime)


def _startup_seconds(run: Run, pool: GuardedPool, looks: Looks, rates: Rates) -> float:
    rates.num_workers = pool.num_workers
    ids = _drawn(run, looks)[: max(1, pool.num_workers)]
    start = time.monotonic()
    _count(_outcomes(pool, looks, ids, ahead=len(ids)), rates)
    return time.monotonic() - start


def _sample_seconds(run: Run, pool: GuardedPool, one: Pass, rates: Rates, *, share_s: float) -> float:
    """Of decoding one sample, in the largest round of samples that there was time for.

    Raises:
        DataError: when none can be read.
    """
    at_once = max(1, pool.num_workers)
    rest, size, largest, num_tried = _drawn(run, one.looks), at_once, 0, 0
    seconds, left_s, is_read = 0.0, share_s, False
    reasons: tuple[str, ...] = ()
    while rest and size:
        ids, rest = rest[:size], rest[size:]
        start = time.monotonic()
        tried = _count(_outcomes(pool, one.looks, ids, ahead=3 * one.batch_size), rates)
        taken = time.monotonic() - start
        left_s, num_tried = left_s - taken, num_tried + len(ids)
        is_read, reasons = is_read or any(fine for fine, _ in tried), tried[0][1]
        if len(ids) >= largest:
            largest, seconds = len(ids), taken / len(ids)
        if is_read:
            affordable = int(left_s / max(seconds, 1e-9))
            size = affordable if affordable > at_once else 0
        elif num_tried >= _FEWEST_TRIED and left_s < 0:
            break
    if not is_read:
        raise DataError(
            f"None of the {num_tried} samples that were tried could be read, e.g. {ids[0]}.",
            why="; ".join(reasons),
            fix="`cfvid data check` looks at all of them.",
        )
    return seconds


def _drawn(run: Run, looks: Looks) -> list[str]:
    """Samples to try, drawn from all of them."""
    rows = stream(run.config.seed, "probe", looks.look).permutation(len(looks.samples))[:_MOST_SAMPLES]
    return [looks.samples[int(row)].sample_id for row in rows]


def _outcomes(pool: GuardedPool, looks: Looks, ids: Sequence[str], *, ahead: int) -> Iterator[Outcome]:
    ledger = SkipLedger(num_samples=len(looks.samples), budget=1.0, stage="probe")
    loader = SampleLoader(looks.samples, pool=pool, ledger=ledger)
    requests = [loader.request(sample_id, look=looks.look, seed=seed) for seed, sample_id in enumerate(ids)]
    return loader.outcomes(requests, ahead=ahead)


def _count(outcomes: Iterable[Outcome], rates: Rates) -> list[tuple[bool, tuple[str, ...]]]:
    """Whether each sample was read, and what was said of it; its views are not held."""
    tried = [(outcome.value is not None, outcome.reasons) for outcome in outcomes]
    rates.num_decoded += len(tried)
    rates.num_unreadable += sum(not is_read for is_read, _ in tried)
    return tried


def _memory_of_children() -> int:
    """What the processes below this one have for themselves."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:  # it has ended, or is another user's
            continue
    return total


# ---------------------------------------------------------------------------------------------- the network


def _view_seconds(run: Run, one: Pass, footprint: Footprint, *, share_s: float) -> float:
    """Of one view in a batch of the configured size, or of the largest that the time and the memory suffice for."""
    step = _training_step(run, one) if one.training is not None else _forward_step(run, one)
    fitting = int((_free_memory(run.accelerator.device) - footprint.fixed) / max(1.0, footprint.per_sample))
    most, size, end = min(one.batch_size, fitting), _FEWEST, time.monotonic() + share_s
    while True:
        call = functools.partial(step, size)
        # The first of its size makes its plans and takes its memory: it counts only where there is no time for another.
        seconds = _mean_seconds(call, at_most=1, within_s=0.0)
        left_s = end - time.monotonic()
        if seconds < left_s:
            seconds = _mean_seconds(call, at_most=_MOST_STEPS, within_s=left_s / 4)
        grown = min(most, int(size * (end - time.monotonic()) / 3 / max(seconds, 1e-9)))
        if grown <= size:
            return seconds / size
        size = grown


def _free_memory(device: torch.device) -> float:
    """Bytes that a probe may take: some is left, since what kernels take for themselves is not counted."""
    free = psutil.virtual_memory().available if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    return float(free) / 2


def _mean_seconds(call: Callable[[], object], *, at_most: int, within_s: float) -> float:
    """Of the calls but the first, where there is time for several."""
    taken: list[float] = []
    while not taken or (len(taken) < at_most and sum(taken) + taken[-1] < within_s):
        start = time.monotonic()
        call()
        taken.append(time.monotonic() - start)
    return float(np.mean(taken[1:] or taken))


def _training_step(run: Run, one: Pass) -> Callable[[int], object]:
    """A step on a network that is thrown away, as `cfvid.training.loop` does it."""
    assert one.training is not None
    config, part_lrs, accelerator = one.training.config, one.training.part_lrs, run.accelerator
    module = one.build()
    if config.channels_last:
        module = module.to(memory_format=memory_format(one.looks.modality.network_dims + 2))
    module = module.to(accelerator.device).train()
    freeze(module, part_lrs)
    optimizer = build_optimizer(module, config, part_lrs)
    assert one.objective is not None
    objective = one.objective()

    def step(size: int) -> None:
        batch = _blank(one, size)
        examples = examples_of(batch, objective, one.looks.modality, accelerator.device)
        inputs = one.looks.modality.normalize(examples.inputs)
        if config.channels_last:
            inputs = inputs.to(memory_format=memory_format(inputs.ndim))
        with accelerator.autocast():
            logits = module(inputs)
        smoothing = config.label_smoothing
        loss = loss_of(logits, examples, temperature=objective.temperature, label_smoothing=smoothing)
        loss.item()  # waits for the device, as the loop does
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _forward_step(run: Run, one: Pass) -> Callable[[int], object]:
    """A forward pass, as `cfvid.evaluation.inference` does it."""
    accelerator, modality = run.accelerator, one.looks.modality
    module: nn.Module = one.build().to(memory_format=memory_format(modality.network_dims + 2))
    module = module.to(accelerator.device).eval()
    objective = one.objective() if one.objective is not None else None

    @torch.inference_mode()
    def step(size: int) -> np.ndarray:
        batch = _blank(one, size)
        views = batch.inputs[:, 0].to(accelerator.device)
        inputs = modality.normalize(views if objective is None else objective.examples(views, batch).inputs)
        with accelerator.autocast():
            outputs = module(inputs.to(memory_format=memory_format(inputs.ndim))).float()
        said: np.ndarray = outputs.cpu().numpy()
        return said

    return step


def _blank(one: Pass, size: int) -> Batch:
    """A batch of one view of each sample."""
    ids, views = one.looks.samples.ids, one.looks.modality.example(size)
    return Batch([ids[n % len(ids)] for n in range(size)], views[:, None], list(range(size)))


# ---------------------------------------------------------------------------------------------- k-means


def _comparison_seconds(run: Run, search: Search, *, share_s: float) -> float:
    """Of comparing one point with one centroid, by the engines' own search over points that are noise."""
    most = max(1, _MOST_CENTROID_BYTES // (4 * search.dim))
    rng, num_clusters = stream(0, "probe", "k-means"), min(search.num_clusters, most)
    centroids_KD = rng.standard_normal((num_clusters, search.dim), dtype=np.float32)
    points_ND = rng.standard_normal((min(_NUM_POINTS, most), search.dim), dtype=np.float32)
    use_gpu = run.accelerator.device.type == "cuda"

    def once() -> None:
        accumulate(points_ND, centroids_KD, search="flat", use_gpu=use_gpu, desc="probe")

    return _mean_seconds(once, at_most=_MOST_STEPS, within_s=share_s) / (len(points_ND) * num_clusters)
