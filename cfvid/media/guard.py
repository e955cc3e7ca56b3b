"""Decoding in child processes with a deadline: a decoder that hangs or crashes costs one sample, not the run.

Decoders are native code. Some hang for ever holding the interpreter's lock, some crash the process; neither can be
caught from inside. So each task runs in a child that is killed (SIGKILL) at its deadline and replaced, while the
other children go on. A task names several *attempts* (decoders); when a child dies, the task is given to another
child for the attempts that are left.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

Work = Callable[[Any, str], np.ndarray]
"""`work(payload, attempt)` gives an array, or raises when this attempt cannot; it must be picklable."""

_STARTUP_DEADLINE_S = 180.0
_QUEUE_DEPTH = 3
"""Tasks sent ahead to each child, so that it never waits for the next one."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task."""

    payload: Any
    value: np.ndarray | None
    """The array, or None when every attempt failed."""
    attempt: str | None
    """The attempt that succeeded."""
    reasons: tuple[str, ...]
    """Why each failed attempt failed."""


@dataclass
class _Task:
    number: int
    payload: Any
    first_attempt: int = 0
    reasons: list[str] = field(default_factory=list)


class GuardedPool:
    """Child processes that run `work` on tasks and survive what the tasks do to them.

    Args:
        work: what a child does with a payload; see `Work`.
        attempts: names of the attempts in the order in which they are tried.
        num_workers: number of children; 0 runs the work in this process, without any guard.
        deadline_s: seconds that one attempt of one task may take.
        memory_gb: memory that one child may allocate; beyond it, its task fails.
    """

    def __init__(
        self,
        work: Work,
        *,
        attempts: tuple[str, ...],
        num_workers: int,
        deadline_s: float,
        memory_gb: float = 4.0,
    ) -> None:
        self._work, self._attempts = work, attempts
        self._num_workers, self._deadline_s, self._memory_gb = num_workers, deadline_s, memory_gb
        self._children: list[_Child] = []

    def __enter__(self) -> GuardedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the children; they hold nothing worth saving."""
        for child in self._children:
            child.kill()
        self._children.clear()

    def imap(self, payloads: Iterable[Any], *, ahead: int = 64) -> Iterator[Outcome]:
        """Outcomes in the order of the payloads; at most `ahead` tasks are begun and not yet taken."""
        if self._num_workers == 0:
            for payload in payloads:
                yield _run_here(self._work, self._attempts, payload)
            return
        while len(self._children) < self._num_workers:
            self._children.append(self._new_child())
        round_ = _Round(payloads, self._children, self._new_child, self._attempts, self._deadline_s, ahead)
        try:
            yield from round_.outcomes()
        finally:
            round_.stop()

    def _new_child(self) -> _Child:
        return _Child(self._work, self._attempts, self._memory_gb)


def _run_here(work: Work, attempts: tuple[str, ...], payload: Any) -> Outcome:
    reasons = []
    for attempt in attempts:
        try:
            return Outcome(payload, work(payload, attempt), attempt, tuple(reasons))
        except Exception as error:
            reasons.append(_reason(attempt, error))
    return Outcome(payload, None, None, tuple(reasons))


def _reason(attempt: str, error: BaseException) -> str:
    return f"{attempt}: {str(error) or type(error).__name__}"


# ---------------------------------------------------------------------------------------------- parent


class _Child:
    """One child process and the tasks it was given, the first of which it works on."""

    def __init__(self, work: Work, attempts: tuple[str, ...], memory_gb: float) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_child_main, args=(theirs, work, attempts, memory_gb), daemon=True, name="cfvid-decode"
        )
        self.process.start()
        theirs.close()
        self.tasks: deque[_Task] = deque()
        self.ready = False
        self.since = time.monotonic()

    def give(self, task: _Task) -> None:
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self.connection.send((task.number, task.payload, task.first_attempt))

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Round:
    """One `imap`: a thread hands out tasks and takes results while the consumer computes."""

    def __init__(
        self,
        payloads: Iterable[Any],
        children: list[_Child],
        new_child: Callable[[], _Child],
        attempts: tuple[str, ...],
        deadline_s: float,
        ahead: int,
    ) -> None:
        self._payloads = enumerate(payloads)
        self._children, self._new_child = children, new_child
        self._attempts, self._deadline_s, self._ahead = attempts, deadline_s, ahead
        self._again: deque[_Task] = deque()
        self._done: dict[int, Outcome] = {}
        self._begun = self._taken = 0
        self._exhausted = self._stopped = False
        self._failure: BaseException | None = None
        self._news = threading.Condition()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._pump, name="cfvid-guard", daemon=True)
        self._thread.start()

    def outcomes(self) -> Iterator[Outcome]:
        while True:
            with self._news:
                while self._taken not in self._done and not self._failure and not self._all_taken():
                    self._news.wait()
                if self._failure:
                    raise self._failure
                if self._taken not in self._done:
                    return
                outcome = self._done.pop(self._taken)
                self._taken += 1
            os.write(self._wake_write, b".")
            yield outcome

    def _all_taken(self) -> bool:
        return self._exhausted and self._taken == self._begun

    def stop(self) -> None:
        self._stopped = True
        os.write(self._wake_write, b".")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _pump(self) -> None:
        try:
            while not self._stopped:
                self._hand_out()
                with self._news:
                    if self._exhausted and len(self._done) + self._taken == self._begun:
                        self._news.notify()
                        return
                self._collect()
            self._discard_unfinished()
        except BaseException as error:  # handed to the consumer, who raises it
            with self._news:
                self._failure = error
                self._news.notify()

    def _hand_out(self) -> None:
        for depth in range(_QUEUE_DEPTH):
            for place, child in enumerate(self._children):
                if len(child.tasks) > depth:
                    continue
                task = self._next_task()
                if task is None:
                    return
                try:
                    child.give(task)
                except OSError:  # it died while idle, or on the task before
                    child.tasks.pop()
                    self._again.appendleft(task)
                    self._replace(place, "the decoding process crashed")

    def _next_task(self) -> _Task | None:
        if self._again:
            return self._again.popleft()
        if self._exhausted or self._begun - self._taken >= self._ahead:
            return None
        item = next(self._payloads, None)
        if item is None:
            self._exhausted = True
            return None
        self._begun += 1
        return _Task(*item)

    def _collect(self) -> None:
        """Wait for results, the next deadline or the consumer; deal with what came."""
        connections = {child.connection: place for place, child in enumerate(self._children)}
        now = time.monotonic()
        timeout = min(self._left(child, now) for child in self._children)
        for ready in wait([*connections, self._wake_read], timeout=max(0.0, min(timeout, 60.0))):
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
            else:
                self._receive(connections[ready])
        now = time.monotonic()
        for place, child in enumerate(self._children):
            # A result may have come while this process was held up elsewhere: look before killing.
            if self._left(child, now) <= 0 and not child.connection.poll():
                self._replace(place, f"killed after {self._deadline_s:g} s without a result")

    def _left(self, child: _Child, now: float) -> float:
        if not child.tasks:
            return float("inf")
        return child.since + (self._deadline_s if child.ready else _STARTUP_DEADLINE_S) - now

    def _receive(self, place: int) -> None:
        child = self._children[place]
        try:
            kind, *content = child.connection.recv()
            array = _receive_array(child.connection, *content[1:]) if kind == "value" else None
        except (EOFError, OSError):
            self._replace(place, "the decoding process crashed")
            return
        child.since = time.monotonic()
        if kind == "ready":
            child.ready = True
        elif kind == "attempt failed":
            task = child.tasks[0]
            task.first_attempt += 1
            task.reasons.append(content[0])
            if task.first_attempt == len(self._attempts):
                child.tasks.popleft()
                self._finish(task, None)
        else:
            task = child.tasks.popleft()
            self._finish(task, array)

    def _finish(self, task: _Task, value: np.ndarray | None) -> None:
        attempt = None if value is None else self._attempts[task.first_attempt]
        outcome = Outcome(task.payload, value, attempt, tuple(task.reasons))
        with self._news:
            self._done[task.number] = outcome
            self._news.notify()

    def _replace(self, place: int, reason: str) -> None:
        """Kill a child; blame its first task's current attempt, and give all its tasks to others."""
        child = self._children[place]
        child.kill()
        if not child.ready and not child.tasks:
            raise RuntimeError("decoding processes die at their start")
        tasks = deque(child.tasks)
        if tasks and child.ready:
            task = tasks[0]
            task.reasons.append(f"{self._attempts[task.first_attempt]}: {reason}")
            task.first_attempt += 1
            logger.warning("decoding %s: %s", task.payload, task.reasons[-1])
            if task.first_attempt == len(self._attempts):
                tasks.popleft()
                self._finish(task, None)
        elif tasks:
            raise RuntimeError(f"a decoding process did not start: {reason}")
        self._again.extendleft(reversed(tasks))
        self._children[place] = self._new_child()

    def _discard_unfinished(self) -> None:
        """The consumer left early: children with unfinished tasks are replaced by clean ones when needed."""
        for child in [child for child in self._children if child.tasks]:
            child.kill()
            self._children.remove(child)


def _receive_array(connection: Connection, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, dtype=dtype)
    if array.nbytes:
        connection.recv_bytes_into(memoryview(array).cast("B"))
    return array


# ---------------------------------------------------------------------------------------------- child


def _context() -> Any:
    """Children are forked from a clean server process: quick to replace, and without this process' threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cfvid.modalities"])
    return context


def _child_main(connection: Connection, work: Work, attempts: tuple[str, ...], memory_gb: float) -> None:
    _limit_this_process(memory_gb)
    connection.send(("ready",))
    while True:
        try:
            number, payload, first_attempt = connection.recv()
        except (EOFError, OSError):
            return
        for attempt in attempts[first_attempt:]:
            try:
                value = np.ascontiguousarray(work(payload, attempt))
            except Exception as error:
                connection.send(("attempt failed", _reason(attempt, error)))
                continue
            connection.send(("value", number, value.dtype.str, value.shape))
            if value.nbytes:
                connection.send_bytes(memoryview(value).cast("B"))
            break


def _limit_this_process(memory_gb: float) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        # A child that hangs would outlive a killed parent: ask the kernel to kill it with its own parent (Linux).
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
