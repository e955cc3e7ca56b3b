"""SIGTERM and Ctrl-C as a flag that long work looks at between steps, so that it can save and end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from cfvid import ranks
from cfvid.errors import Interrupted

_received: list[int] = []


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """Within it, the first signal sets the flag; a second one acts at once, but not under torchrun."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    _received.clear()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _frame: FrameType | None) -> None:
        _received.append(number)
        # torchrun sends a signal on that the terminal may have sent already, and kills what takes too long.
        if ranks.count() == 1:
            signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within it, SIGTERM is an `Interrupted` wherever it comes, as Ctrl-C is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted.by_signal(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def requested() -> bool:
    """Whether a signal came."""
    return bool(_received)


def stop_if_requested() -> None:
    """End here when a signal came.

    Raises:
        Interrupted: with the signal's exit code.
    """
    if requested():
        stop()


def stop() -> NoReturn:
    """End here, because of the signal that came to this process or to another one of the run.

    Raises:
        Interrupted: with the signal's exit code.
    """
    raise Interrupted.by_signal(_received[0] if _received else signal.SIGTERM)
