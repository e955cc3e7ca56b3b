"""The processes of one run under torchrun: which one this is, and what they tell each other.

Every process (rank) runs the same command. The main one, rank 0, owns the run folder and writes all that is not
divided; samples and points are divided among all. What they tell each other goes over gloo, also where gradients go
over NCCL. In a run of one process, none of this does anything.

A process that ends breaks the connections of the others, which then end too, with `RankLost`.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid import launch
from cfvid.errors import RankLost

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST = datetime.timedelta(days=7)
"""That a process waits for another one: the main one may cluster for days. One that has ended is noticed at once."""
_LOST_SIGNS = ("closed by peer", "Connection reset", "Broken pipe", "Connection refused", "NCCL", "gloo", "Socket")


class _Ranks:
    """What is known of the processes; filled by `join`."""

    group: Any = None
    is_alone = False


def join() -> None:
    """Connect the processes for what follows, once torch.distributed is initialised (which Accelerate does)."""
    if _Ranks.group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        _Ranks.group = dist.new_group(backend="gloo", timeout=_LONGEST)
        logger.info("%d processes take part, this is rank %d", dist.get_world_size(), dist.get_rank())


def leave() -> None:
    """Disconnect, at the end of a run that went well."""
    if _Ranks.group is not None:
        _Ranks.group = None
        dist.destroy_process_group()


def count() -> int:
    """How many processes share the work that follows."""
    return 1 if _Ranks.group is None or _Ranks.is_alone else dist.get_world_size(_Ranks.group)


def rank() -> int:
    """Which one this is, from 0."""
    return 0 if _Ranks.group is None or _Ranks.is_alone else dist.get_rank(_Ranks.group)


def is_main() -> bool:
    """Whether this process writes what is not divided."""
    return rank() == 0


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """Work for the main process only: gives whether this is it, to whom it then looks as if there were no others."""
    if count() == 1:
        yield True
    elif not is_main():
        yield False
    else:
        _Ranks.is_alone = True
        try:
            # The others wait: their cores are free.
            with threadpool_limits(torch.get_num_threads() * launch.num_on_this_machine()):
                yield True
        finally:
            _Ranks.is_alone = False


def barrier() -> None:
    """Wait for all others to come here."""
    everywhere(None)


def from_main(value: T) -> T:
    """The main process' value, everywhere."""
    if count() == 1:
        return value
    values = [value]
    with telling_of_lost():
        dist.broadcast_object_list(values, src=0, group=_Ranks.group)
    return values[0]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order, at the main one; elsewhere nothing."""
    if count() == 1:
        return [value]
    values: list[Any] | None = [None] * count() if is_main() else None
    with telling_of_lost():
        dist.gather_object(value, values, dst=0, group=_Ranks.group)
    return values or []


def everywhere(value: T) -> list[T]:
    """The values of all processes, in their order, at every one."""
    return from_main(gathered(value))


def summed(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """The element-wise sum over all processes, float64, everywhere."""
    array = np.array(values, dtype=np.float64)
    if count() > 1:
        with telling_of_lost():
            dist.all_reduce(torch.from_numpy(array), group=_Ranks.group)
    return array


def copy_buffers(network: torch.nn.Module) -> None:
    """Give every process the main one's buffers: running statistics differ where batches do."""
    if count() > 1:
        for name, values in from_main({name: buffer.cpu() for name, buffer in network.named_buffers()}).items():
            network.get_buffer(name).copy_(values)


def shares(num: int, *, smallest: int = 1) -> list[int]:
    """How many of `num` things each process takes: about equally many, at least `smallest` each or none."""
    active = max(1, min(count(), num // smallest))
    each, rest = divmod(num, active)
    return [each + (place < rest) for place in range(active)] + [0] * (count() - active)


def own_part(num: int, *, smallest: int = 1) -> slice:
    """This process' part of `num` things in a row."""
    sizes = shares(num, smallest=smallest)
    start = sum(sizes[: rank()])
    return slice(start, start + sizes[rank()])


@contextlib.contextmanager
def telling_of_lost() -> Iterator[None]:
    """Turn a broken connection into one clear error.

    Raises:
        RankLost: when another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if launch.num_processes() == 1 or not any(sign in str(error) for sign in _LOST_SIGNS):
            raise
        raise RankLost(
            f"Rank {launch.rank()}: another process of this run has ended.",
            why=str(error).splitlines()[0],
            fix="See its own message; the same command continues the run.",
        ) from error
