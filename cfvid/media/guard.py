"""Decoding in child processes with a deadline: a decoder that hangs or crashes costs one sample, not the run.

Decoders are native code. Some hang for ever holding the interpreter's lock, some crash the process; neither can be
caught from inside. So each task runs in a child that is killed (SIGKILL) at its deadline and replaced, while the
other children go on. A task names several *attempts* (decoders); when a child dies, the task is given to another
child for the attempts that are left. After a crash the same attempt is made once more: the task before it may have
spoilt the process' memory, or the kernel may have killed it to get memory back.

No child outlives its parent, however that one ends: the kernel kills children together with the server process that
forked them, and that one ends when the parent's end of a pipe closes.
"""

from __future__ import annotations

import logging
import os
import pickle
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfvid.errors import DataError
from cfvid.media.guard_child import INLINE_BYTES, Work, receive_array
from cfvid.media.guard_handle import MAX_PAYLOAD_BYTES, Child, Task

__all__ = ["MAX_PAYLOAD_BYTES", "GuardedPool", "Outcome", "Work"]

logger = logging.getLogger(__name__)

_STARTUP_DEADLINE_S = 180.0
_QUEUE_DEPTH, _QUICK_QUEUE_DEPTH = 3, 8
"""Tasks sent ahead to each child, so that it never waits for the next one; more where each takes little time."""
_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S = 0.005, 0.001
"""For results to gather: to wake up for each one would cost more than to read it."""


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
        self._work, self.attempts = work, attempts
        self.num_workers, self._deadline_s, self._memory_gb = num_workers, deadline_s, memory_gb
        self._children: list[Child] = []
        self._round: _Round | None = None
        self._closed = False

    def __enter__(self) -> GuardedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the children, which hold nothing worth saving; an `imap` that is still open ends with an error."""
        self._closed = True
        if self._round is not None:
            self._round.stop()
        for child in self._children:
            child.kill()
        self._children.clear()

    def imap(self, payloads: Iterable[Any], *, ahead: int = 64) -> Iterator[Outcome]:
        """Outcomes in the order of the payloads; at most `ahead` tasks are begun and not yet taken.

        Payloads are drawn in another thread. What their iterator raises is raised here, after the outcomes of
        those before. One `imap` at a time: finish or close an iterator before asking for the next.

        Raises:
            DataError: when the children do not start.
            ValueError: for a payload of more than `MAX_PAYLOAD_BYTES` when pickled: name files, do not carry them.
            RuntimeError: when another `imap` is open or the pool is closed.
        """
        if self._closed or self._round is not None:
            raise RuntimeError("the pool is closed" if self._closed else "another imap of this pool is still open")
        if self.num_workers == 0:
            for payload in payloads:
                yield _run_here(self._work, self.attempts, payload)
            return
        while len(self._children) < self.num_workers:
            self._children.append(self._new_child())
        self._round = _Round(payloads, self._children, self._new_child, self.attempts, self._deadline_s, ahead)
        try:
            yield from self._round.outcomes()
        finally:
            self._round.stop()
            self._round = None

    def _new_child(self) -> Child:
        return Child(self._work, self.attempts, self._memory_gb)


def _run_here(work: Work, attempts: tuple[str, ...], payload: Any) -> Outcome:
    reasons: list[str] = []
    for attempt in attempts:
        try:
            return Outcome(payload, work(payload, attempt), attempt, tuple(reasons))
        except Exception as error:
            reasons.append(_reason(attempt, error))
    return Outcome(payload, None, None, tuple(reasons))


def _reason(attempt: str, error: BaseException) -> str:
    return f"{attempt}: {str(error) or type(error).__name__}"


# ---------------------------------------------------------------------------------------------- parent


class _Round:
    """One `imap`: a thread hands out tasks and takes results while the consumer computes.

    Shared between the two threads, under the lock of `_news`: `_done`, `_begun`, `_taken`, the flags and the wake-up
    pipe. All else belongs to the pumping thread.
    """

    def __init__(
        self,
        payloads: Iterable[Any],
        children: list[Child],
        new_child: Callable[[], Child],
        attempts: tuple[str, ...],
        deadline_s: float,
        ahead: int,
    ) -> None:
        self._payloads = enumerate(payloads)
        self._children, self._new_child = children, new_child
        self._attempts, self._deadline_s, self._ahead = attempts, deadline_s, ahead
        self._again: deque[Task] = deque()
        self._done: dict[int, Outcome] = {}
        self._begun = self._taken = 0
        self._exhausted = self._stopped = self._pump_wants_room = False
        self._payload_error: BaseException | None = None
        self._failure: BaseException | None = None
        self._news = threading.Condition()
        self._wake_read, self._wake_write = os.pipe()
        self._pipe_open = True
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._pump, name="cfvid-guard", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------ consumer's side

    def outcomes(self) -> Iterator[Outcome]:
        while True:
            with self._news:
                while self._taken not in self._done and not self._over():
                    self._news.wait()
                if self._failure or self._stopped:
                    raise self._failure or RuntimeError("the pool was closed while its results were read")
                if self._taken not in self._done:
                    if self._payload_error:
                        raise self._payload_error
                    return
                outcome = self._done.pop(self._taken)
                self._taken += 1
                if self._pump_wants_room:
                    self._pump_wants_room = False
                    self._wake()
            yield outcome

    def _over(self) -> bool:
        return bool(self._failure) or self._stopped or (self._exhausted and self._taken == self._begun)

    def stop(self) -> None:
        """End the thread. Afterwards no child has a task of this round."""
        with self._news:
            self._stopped = True
            self._wake()
            self._news.notify()
        # A forgotten iterator may be collected in any thread, this round's own one too.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        if self._pipe_open:
            os.write(self._wake_write, b".")

    # ------------------------------------------------------------------------------------ the thread's side

    def _pump(self) -> None:
        try:
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            for child in self._children:
                self._selector.register(child.connection, selectors.EVENT_READ, child)
            while not self._stopped:
                self._hand_out()
                with self._news:
                    if self._exhausted and len(self._done) + self._taken == self._begun:
                        return
                self._collect()
        except BaseException as error:  # handed to the consumer, who raises it
            self._failure = error
        finally:
            self._discard_unfinished()
            with self._news:
                self._pipe_open = False
                self._news.notify()
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _hand_out(self) -> None:
        for depth in range(_QUICK_QUEUE_DEPTH):
            for child in self._children:
                if len(child.tasks) > depth or depth >= _depth_for(child):
                    continue
                task = self._next_task()
                if task is None:
                    return
                try:
                    child.give(task)
                except OSError:  # it died: what it still sent is read first, then it is replaced
                    self._again.appendleft(task)

    def _next_task(self) -> Task | None:
        if self._again:
            return self._again.popleft()
        with self._news:
            self._pump_wants_room = not self._exhausted and self._begun - self._taken >= self._ahead
            if self._exhausted or self._pump_wants_room:
                return None
        try:
            item = next(self._payloads, None)
        except BaseException as error:  # handed to the consumer after what came before it
            item, self._payload_error = None, error
        with self._news:
            if item is None:
                self._exhausted = True
                return None
            self._begun += 1
        return Task(*item)

    def _collect(self) -> None:
        """Wait for results, the next deadline or the consumer; deal with what came."""
        now = time.monotonic()
        timeout = min(self._left(child, now) for child in self._children)
        ready = self._selector.select(timeout=max(0.0, min(timeout, 60.0)))
        pause_s = min(map(_spare_s, self._children))
        gathers = bool(ready) and pause_s > _SHORTEST_PAUSE_S
        if gathers:
            time.sleep(min(pause_s, _LONGEST_PAUSE_S))
        while ready:
            for key, _ in ready:
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._receive(key.data)
            ready = self._selector.select(timeout=0) if gathers else []
        now = time.monotonic()
        for child in list(self._children):
            # A result may have come while this process was held up elsewhere: look before killing.
            if self._left(child, now) <= 0 and not child.connection.poll():
                self._replace(child, overdue=True)
        with self._news:
            if self._taken in self._done:
                self._news.notify()

    def _left(self, child: Child, now: float) -> float:
        if not child.tasks:
            return float("inf")
        return child.since + (self._deadline_s if child.ready else _STARTUP_DEADLINE_S) - now

    def _receive(self, child: Child) -> None:
        try:
            kind, *content = pickle.loads(child.connection.recv_bytes())
            array = receive_array(child.connection, *content[1:]) if kind == "value" else None
        except Exception:  # the end of the stream, or what a spoilt process wrote before it died
            self._replace(child)
            return
        child.since = time.monotonic()
        if kind == "ready":
            child.ready = True
        elif kind == "failed":
            self._blame(child.tasks[0], content[0])
            if child.tasks[0].first_attempt == len(self._attempts):
                self._finish(child.tasks.popleft(), None)
        else:
            # A large array fills the pipe, and its child waits until it is taken.
            is_small = array is not None and array.nbytes <= INLINE_BYTES
            child.task_s = content[0] if is_small else None
            self._finish(child.tasks.popleft(), array)

    def _blame(self, task: Task, reason: str) -> None:
        task.reasons.append(f"{self._attempts[task.first_attempt]}: {reason}")
        task.first_attempt += 1
        task.crashed = False

    def _finish(self, task: Task, value: np.ndarray | None) -> None:
        attempt = None if value is None else self._attempts[task.first_attempt]
        outcome = Outcome(task.payload, value, attempt, tuple(task.reasons))
        with self._news:
            self._done[task.number] = outcome

    def _replace(self, child: Child, *, overdue: bool = False) -> None:
        """Kill a child and give its tasks to others; the first of them may be to blame."""
        self._selector.unregister(child.connection)
        ending = child.kill(patience_s=0.0 if overdue else 2.0)  # the pipe closes before the process has ended
        if not child.ready:
            raise DataError(
                f"A decoding process did not start: {'no answer' if overdue else ending}.",
                fix="Look at its error above; raise runtime.decode_memory_gb; runtime.num_workers: 0 goes without.",
            )
        if child.tasks:
            task = child.tasks[0]
            if overdue:
                self._blame(task, f"killed after {self._deadline_s:g} s without a result")
            elif task.crashed:
                self._blame(task, f"the decoding process crashed twice ({ending})")
            else:
                task.crashed = True
            if overdue or not task.crashed:
                logger.warning("decoding %s: %s", task.payload, task.reasons[-1])
            if task.first_attempt == len(self._attempts):
                self._finish(child.tasks.popleft(), None)
        self._again.extendleft(reversed(child.tasks))
        successor = self._new_child()
        self._children[self._children.index(child)] = successor
        self._selector.register(successor.connection, selectors.EVENT_READ, successor)

    def _discard_unfinished(self) -> None:
        """Children that still have tasks or are dead are not used again; the pool starts others when needed."""
        for child in list(self._children):
            if child.tasks or child.connection.closed:
                self._children.remove(child)
                if not child.connection.closed:
                    child.kill()


def _depth_for(child: Child) -> int:
    is_quick = child.task_s is not None and child.task_s < _LONGEST_PAUSE_S
    return _QUICK_QUEUE_DEPTH if is_quick else _QUEUE_DEPTH


def _spare_s(child: Child) -> float:
    """How long a child can do without this process: until it has one more task besides the one it works on."""
    return (len(child.tasks) - 2) * child.task_s if child.task_s is not None else 0.0
