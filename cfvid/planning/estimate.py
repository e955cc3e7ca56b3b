"""What a run will take, for people: samples, time, memory and disk of each stage, before any work.

Time is that of a probe (see `cfvid.planning.probe`): decoding by the run's own processes and steps of its networks, one
without the other, put together by `cfvid.planning.arithmetic.overlap`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from cfvid.planning.arithmetic import overlap
from cfvid.planning.probe import MEASURED_S, Rates, measure
from cfvid.planning.stages import works_of
from cfvid.planning.text import duration_text, size_text
from cfvid.planning.work import Pass, Work, disk_bytes
from cfvid.stages.context import Run, clip_cache_of

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 3
"""Decoded batches that wait while one is computed on; see `cfvid.data.loader`."""
NOT_COUNTED = (
    "not counted  fitting classifiers to frozen features, PCA, scores, predictions, logs, manifests, the report;",
    "             memory that kernels take for themselves; files on a slower disk than those that were just read",
)


@dataclass(frozen=True)
class Cost:
    """What a stage will take."""

    seconds: float
    host_bytes: int
    """The most at a time, this process and its decoding processes together."""
    gpu_bytes: int
    """0 where there is no GPU."""
    limit: str
    """What decides how long it takes; empty where nothing is decoded."""


def announce(run: Run, stages: Collection[str]) -> None:
    """Log what these stages will write and hold, without a probe; warn when the disk is too small for it.

    Nothing is said of stages that are done before, nor of work that runs share: what of it is there is not known yet.
    """
    if run.shared is not None:
        return
    works = [work for work in works_of(run, stages) if not work.is_done]
    for work in works:
        memory = f", {size_text(work.memory_bytes)} of memory for its arrays" if work.memory_bytes else ""
        logger.info("plan: %s: %s, %s to write%s", work.name, work.what, size_text(work.kept_bytes), memory)
    kept, most = disk_bytes(works)
    warnings = _disk_warnings(run, most, works)
    for warning in warnings:
        logger.warning("%s", warning)
    if works and not warnings:
        logger.info("plan: %s to write in all, %s at most while it works", size_text(kept), size_text(most))


def estimate_lines(run: Run, stages: Collection[str], *, measured_s: float = MEASURED_S) -> list[str]:
    """A table of what these stages will take, with totals and how that was found out; takes about 20 s.

    Args:
        run: what to estimate; its folder is only read.
        stages: which ones.
        measured_s: seconds to measure for, besides starting decoding processes.

    Raises:
        CfvidError: when samples cannot be listed, or none of those that were tried can be read.
    """
    works = works_of(run, stages)
    rates = measure(run, works, measured_s=measured_s)
    costs = [cost_of(run, work, rates) for work in works]
    return [*_table(works, costs), "", *_totals(run, works, costs), "", *_how(run, rates), *NOT_COUNTED]


def cost_of(run: Run, work: Work, rates: Rates) -> Cost:
    """What a stage takes at these rates; nothing, when it is done before."""
    if work.is_done:
        return Cost(0.0, 0, 0, "")
    on_gpu = run.accelerator.device.type == "cuda"
    timed = [_time_of(run, one, rates) for one in work.passes]
    seconds = sum(seconds for seconds, _ in timed)
    if work.search is not None:
        seconds += rates.comparison_s * work.search.num_comparisons
    networks = [rates.footprints[one.key].of_batch(one.batch_size, precision=run.precision) for one in work.passes]
    buffers = [_buffer_bytes(one) for one in work.passes]
    arrays = [buffer + (0 if on_gpu else network) for buffer, network in zip(buffers, networks, strict=True)]
    workers = rates.worker_bytes if work.passes else 0
    host = rates.own_bytes + max([work.memory_bytes, *(workers + each for each in arrays)])
    limit = max(timed, default=(0.0, ""))[1]
    return Cost(seconds, host, max(networks, default=0) if on_gpu else 0, limit)


def _time_of(run: Run, one: Pass, rates: Rates) -> tuple[float, str]:
    together = overlap(
        decode_s=rates.decode_s[one.looks.key] * one.num_decoded,
        compute_s=rates.compute_s[one.key] * one.num_decoded * one.looks.num_views,
        decode_cores=rates.num_workers,
        compute_cores=torch.get_num_threads() if run.accelerator.device.type == "cpu" else 1,
        num_cores=num_cores(),
        is_apart=rates.num_workers > 0,
    )
    return together.seconds + rates.startup_s, together.limit


def _buffer_bytes(one: Pass) -> int:
    view = one.looks.modality.example(1).nbytes
    return _BATCHES_AHEAD * one.batch_size * one.looks.num_views * view


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(folder: Path) -> int:
    """Free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def cache_room(run: Run, works: Sequence[Work]) -> int:
    """Bytes that the clip cache may grow by while these works train; how long videos are is not known before."""
    cache = clip_cache_of(run.config.runtime)
    is_used = getattr(run.config.input, "cache_short_side", None) is not None
    trains = any(one.looks.look == "train" for work in works if not work.is_done for one in work.passes)
    return max(0, cache.limit_bytes - cache.used_bytes()) if cache is not None and is_used and trains else 0


def _disk_warnings(run: Run, most: int, works: Sequence[Work]) -> list[str]:
    """What is said of disks that are too small for the run folder and the clip cache."""
    needs, room, cache = [(run.folder, most)], cache_room(run, works), clip_cache_of(run.config.runtime)
    if room and cache is not None:
        folder = Path(cache.folder)
        if _existing(folder).stat().st_dev == _existing(run.folder).stat().st_dev:
            needs = [(run.folder, most + room)]
        else:
            needs.append((folder, room))
    return [_too_small(folder, each, free_bytes(folder)) for folder, each in needs if each > free_bytes(folder)]


def _too_small(folder: Path, most: int, free: int) -> str:
    return (
        f"The disk of {folder} is too small: about {size_text(most)} will be written, {size_text(free)} are free. "
        "Free some, or choose another --output."
    )


# ---------------------------------------------------------------------------------------------- text


def _table(works: Sequence[Work], costs: Sequence[Cost]) -> list[str]:
    has_gpu = any(cost.gpu_bytes for cost in costs)
    rows = [["", "samples", "time", "memory", *(["GPU memory"] if has_gpu else []), "disk", ""]]
    for work, cost in zip(works, costs, strict=True):
        if work.is_done:
            rows.append([work.name, "done before"])
            continue
        gpu = [size_text(cost.gpu_bytes) if cost.gpu_bytes else "-"] if has_gpu else []
        disk = size_text(work.kept_bytes)
        if work.scratch_bytes:
            disk += f" + {size_text(work.scratch_bytes)} for a while"
        rows.append(
            [work.name, work.what, duration_text(cost.seconds), size_text(cost.host_bytes), *gpu, disk, cost.limit]
        )
    widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(max(map(len, rows)))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _totals(run: Run, works: Sequence[Work], costs: Sequence[Cost]) -> list[str]:
    kept, most = disk_bytes([work for work in works if not work.is_done])
    free, memory = free_bytes(run.folder), psutil.virtual_memory()
    seconds, held = sum(cost.seconds for cost in costs), max((cost.host_bytes for cost in costs), default=0)
    lines = [
        f"time         {duration_text(seconds)} in all",
        f"memory       {size_text(held)} at most; there are {size_text(memory.total)}",
        f"disk         {size_text(kept)} in all, {size_text(most)} at most while it works; {size_text(free)} are free",
    ]
    if held > memory.total:
        lines.append("warning      that is more than there is: lower the batch sizes, or runtime.num_workers")
    on_gpu = max((cost.gpu_bytes for cost in costs), default=0)
    if on_gpu:
        there = torch.cuda.get_device_properties(run.accelerator.device).total_memory
        lines.append(f"GPU memory   {size_text(on_gpu)} at most; there are {size_text(there)}")
        if on_gpu > there:
            lines.append("warning      that is more than there is: lower the batch sizes")
    room = cache_room(run, works)
    if room:
        lines.append(f"clip cache   grows by up to {size_text(room)}; time is that of epochs which decode")
    return [*lines, *(f"warning      {text}" for text in _disk_warnings(run, most, works))]


def _how(run: Run, rates: Rates) -> list[str]:
    threads = torch.get_num_threads()
    where = f"{threads} thread(s)" if run.accelerator.device.type == "cpu" else "a GPU"
    tried, unreadable = rates.num_decoded, rates.num_unreadable
    lines = [
        f"probe        {rates.seconds:.0f} s; {tried} looks at samples, {unreadable} unreadable; {run.precision}",
        f"rule         the slower of decoding ({rates.num_workers} processes) and the network ({where}), or both",
        f"             spread over {num_cores()} core(s) where that is more; {rates.startup_s:.1f} s to start decoding",
    ]
    if rates.load > num_cores():
        lines.append(f"             others keep this machine busy (load {rates.load:.0f}): time is that of now")
    if rates.num_decoded and rates.num_unreadable / rates.num_decoded > run.config.data.skip_budget:
        lines.append("warning      more samples were unreadable than data.skip_budget allows; see `cfvid data check`")
    return lines
