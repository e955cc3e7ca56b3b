"""The parent's hold on one child of `cfvid.media.guard`: its process, its pipe, the tasks it was given."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import pickle
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cfvid.child_processes import new_process
from cfvid.media.guard_child import Work, child_main

MAX_PAYLOAD_BYTES = 12_288
"""Pickled. A child that is busy sending takes nothing in: all that is sent to it meanwhile must fit the pipe."""


@dataclass
class Task:
    """One payload and what has become of it so far."""

    number: int
    payload: Any
    first_attempt: int = 0
    crashed: bool = False
    """Whether this attempt has crashed once."""
    reasons: list[str] = field(default_factory=list)


class Child:
    """One child process and the tasks it was given, the first of which it works on."""

    def __init__(self, work: Work, attempts: tuple[str, ...], memory_gb: float) -> None:
        # Forked from a clean server process: quick to replace, and without this process' threads.
        multiprocessing.get_context("forkserver").set_forkserver_preload(
            ["cfvid.modalities", "cfvid.media.fork_server"]
        )
        self.connection, theirs = multiprocessing.Pipe()
        self.process = new_process("forkserver", "decode", child_main, (theirs, work, attempts, memory_gb), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks: deque[Task] = deque()
        self.ready = False
        self.since = time.monotonic()
        self.task_s: float | None = None
        """Seconds that its last task took; None where results are large or not yet known."""

    def give(self, task: Task) -> None:
        """Send a task.

        Raises:
            ValueError: when its payload is too large.
            OSError: when the child is dead.
        """
        message = pickle.dumps((task.payload, task.first_attempt), protocol=pickle.HIGHEST_PROTOCOL)
        if len(message) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload of {len(message)} bytes; at most {MAX_PAYLOAD_BYTES} can be sent")
        if not self.tasks:
            self.since = time.monotonic()
        self.connection.send_bytes(message)
        self.tasks.append(task)

    def kill(self, *, patience_s: float = 0.0) -> str:
        """End it, if it does not end by itself within a time; returns how it ended."""
        if patience_s:
            self.process.join(timeout=patience_s)
        if self.process.exitcode is None:
            self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self.connection.close()
        with contextlib.suppress(ValueError, TypeError):
            return signal.Signals(-code).name
        return f"exit code {code}"
