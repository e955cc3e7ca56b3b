"""The child's side of `cfvid.media.guard`: takes tasks from a pipe, sends back arrays or reasons."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

Work = Callable[[Any, str], np.ndarray]
"""`work(payload, attempt)` gives an array, or raises when this attempt cannot; it must be picklable,
and not defined in the main module."""

INLINE_BYTES = 65_536
"""Smaller arrays travel inside their message: copying them costs less than another one."""


def child_main(connection: Connection, work: Work, attempts: tuple[str, ...], memory_gb: float) -> None:
    """A child's whole life: `ready`, then for each task a `failed` per attempt that fails, and a `value` at last."""
    _limit_this_process(memory_gb)
    _send(connection, "ready")
    while True:
        try:
            payload, first_attempt = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        for attempt in attempts[first_attempt:]:
            start = time.perf_counter()
            try:
                # order="C" and not ascontiguousarray, which makes a row of a number.
                value = np.asarray(work(payload, attempt), order="C")
                if value.dtype.hasobject:
                    raise TypeError("an array of objects cannot be sent")
            except Exception as error:
                _send(connection, "failed", str(error) or type(error).__name__)
                continue
            seconds = time.perf_counter() - start
            if value.nbytes <= INLINE_BYTES:
                _send(connection, "value", seconds, value.dtype.str, value.shape, bytearray(value.tobytes()))
            else:
                _send(connection, "value", seconds, value.dtype.str, value.shape, None)
                rest = value.data.cast("B")
                while rest:
                    rest = rest[os.write(connection.fileno(), rest) :]
            break


def _send(connection: Connection, *message: Any) -> None:
    connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def _limit_this_process(memory_gb: float) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    with contextlib.suppress(OSError, AttributeError):
        # A child that hangs would outlive a killed parent: ask the kernel to kill it with its own parent (Linux),
        # the server that forked it. That one ends with the last process that holds this descriptor: not here.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.close(multiprocessing.forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before the line above
        os._exit(1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Native decoders write to stderr as they like; what matters comes back as the reason.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def receive_array(connection: Connection, dtype: str, shape: tuple[int, ...], body: bytearray | None) -> np.ndarray:
    """An array of a `value` message, read by the parent: from its body, or from the pipe after it."""
    if body is not None:
        return np.frombuffer(body, dtype=dtype).reshape(shape)
    array = np.empty(shape, dtype=dtype)
    # Straight from the pipe into the array: Connection.recv_bytes_into copies twice.
    rest = array.data.cast("B")
    while rest:
        num_read = os.readv(connection.fileno(), [rest])
        if num_read == 0:
            raise EOFError
        rest = rest[num_read:]
    return array
