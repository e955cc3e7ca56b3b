"""Runs an experiment's runs: in this process, or several groups at a time in processes of their own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from tqdm import tqdm

from cfvid.child_processes import new_process
from cfvid.errors import CfvidError, Interrupted
from cfvid.experiments.cells import Cell, Group
from cfvid.pipeline import run_stages
from cfvid.training import interrupts

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_PATIENCE_S = 60.0
"""How long a group may take to save its state after a signal."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by numerical libraries when they are loaded."""
_END = "end"
"""What a process sends last."""


@dataclass(frozen=True)
class Failure:
    """A run that ended badly, or a whole group."""

    name: str
    """Of what failed, for people."""
    text: str


def run_groups(groups: Sequence[Group], *, jobs: int) -> list[Failure]:
    """Run all groups; a run that fails ends only those that start from it.

    Args:
        groups: of runs; each is done in order.
        jobs: how many groups at a time. More than one: each in its own process, with its share of the cores.

    Returns:
        What failed.

    Raises:
        Interrupted: after a signal, when all processes have ended; states were saved.
    """
    bar = tqdm(total=sum(len(group.cells) for group in groups), desc="runs", unit="run", disable=None)
    with bar:
        return _in_turn(groups, bar) if jobs == 1 else _side_by_side(groups, jobs, bar)


def _in_turn(groups: Sequence[Group], bar: tqdm) -> list[Failure]:
    failures = list[Failure]()
    for group in groups:
        for arm, ended_by in run_group(group):
            _note(group, arm, ended_by, bar, failures)
    return failures


def run_group(group: Group) -> Iterator[tuple[str, str | None]]:
    """Do the runs of one group: each arm with what ended it, None when it is done.

    Raises:
        Interrupted: after a signal.
    """
    lost = set[str]()
    for cell in group.cells:
        logger.info("%s, %s", group.name, cell.arm)
        needed = lost & {cell.starts_from, *cell.teachers}
        ended_by = f"It starts from {', '.join(sorted(needed))}, which failed." if needed else _run(cell)
        if ended_by is not None:
            lost.add(cell.arm)
        yield cell.arm, ended_by


def _run(cell: Cell) -> str | None:
    """Do one run: what ended it, None when it is done."""
    try:
        run_stages(cell.config, cell.folder, stages=cell.stages, shared=cell.shared)
    except Interrupted:
        raise
    except CfvidError as error:
        return str(error)
    except Exception as error:  # a fault of ours: of this run only
        logger.exception("%s", cell.folder)
        return f"{type(error).__name__}: {error}"
    return None


def _note(group: Group, arm: str, ended_by: str | None, bar: tqdm, failures: list[Failure]) -> None:
    bar.update()
    if ended_by is None:
        logger.info("%s, %s: done", group.name, arm)
    else:
        failures.append(_failed(f"{group.name}, {arm}", ended_by))


def _failed(name: str, text: str) -> Failure:
    logger.error("%s failed:\n%s", name, text)
    return Failure(name, text)


# ---------------------------------------------------------------------------------------------- processes


@dataclass
class _Worker:
    group: Group
    process: BaseProcess
    messages: Connection


def _side_by_side(groups: Sequence[Group], jobs: int, bar: tqdm) -> list[Failure]:
    waiting, working, failures = list(groups), list[_Worker](), list[Failure]()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    logger.info("%d groups at a time, %d thread(s) each", jobs, threads)
    with interrupts.graceful():
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    working.append(_start(waiting.pop(0), threads))
                for worker in [w for w in working if _heard(w, bar, failures)]:
                    working.remove(worker)
                interrupts.stop_if_requested()
                wait([w.messages for w in working], timeout=_POLL_S)
        finally:
            _end(working)
    return failures


def _start(group: Group, threads: int) -> _Worker:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # Not a daemon: it has decoding processes of its own.
    process = new_process("spawn", "group", _work, (group, threads, theirs), daemon=False)
    # Threads that wait for a core spin: with one for every core in each process, a linear probe took 80 times as long.
    with _environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))):
        process.start()
    theirs.close()
    return _Worker(group, process, ours)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(group: Group, threads: int, messages: Connection) -> None:
    """In the child: send how each of the group's runs ended."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)  # the rest is in each run's own log
    logging.getLogger("cfvid").addHandler(terminal)
    logging.getLogger("cfvid").setLevel(logging.INFO)
    torch.set_num_threads(threads)
    group = Group(group.point, group.seed, [_with_workers(cell, threads) for cell in group.cells])
    try:
        for arm, ended_by in run_group(group):
            messages.send((arm, ended_by))
    except Interrupted as error:
        raise SystemExit(error.exit_code) from None
    messages.send(_END)


def _with_workers(cell: Cell, number: int) -> Cell:
    """The cell with as many decoding processes as it has threads, unless a number was asked for."""
    if cell.config.runtime.num_workers is not None:
        return cell
    runtime = cell.config.runtime.model_copy(update={"num_workers": number})
    return replace(cell, config=cell.config.model_copy(update={"runtime": runtime}))


def _heard(worker: _Worker, bar: tqdm, failures: list[Failure]) -> bool:
    """Take what a worker says; gives whether it has ended."""
    try:
        while worker.messages.poll():
            message = worker.messages.recv()
            if message == _END:
                worker.process.join()
                return True
            arm, ended_by = message
            _note(worker.group, arm, ended_by, bar, failures)
    except EOFError:
        worker.process.join()
        failures.append(_failed(worker.group.name, f"Its process ended with code {worker.process.exitcode}."))
        return True
    return False


def _end(workers: Sequence[_Worker]) -> None:
    """End what still works: first with a signal, on which it saves its state."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_PATIENCE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
