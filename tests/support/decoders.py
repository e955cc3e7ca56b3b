"""Stand-in decoders for the guarded pool, which do on command what real ones do on bad days; names of real ones."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cfvid.data.loader import Request
from cfvid.errors import MissingPackage
from cfvid.media import clip_cache
from cfvid.media.video import OPTIONAL_DECODERS, VIDEO_DECODERS
from cfvid.modalities.base import Modality

ATTEMPTS = ("first", "second")


def _unless_installed(decoder: str) -> pytest.MarkDecorator:
    try:
        OPTIONAL_DECODERS[decoder].check_installed()
    except MissingPackage as error:
        return pytest.mark.skip(reason=f"{error.what} ({error.why})")
    return pytest.mark.skipif(False, reason="it is installed")


needs_torchcodec = _unless_installed("torchcodec")
each_video_decoder = pytest.mark.parametrize(
    "decoder",
    [*VIDEO_DECODERS, *(pytest.param(name, marks=_unless_installed(name)) for name in OPTIONAL_DECODERS)],
)
"""Optional ones are skipped where they are not installed."""


def stand_in(payload: str, attempt: str) -> np.ndarray:
    """Obey a payload such as `ok 7`; with `first:` in front only the first attempt does, the second one is good.

    Returns:
        int64, (2,): the number in the payload and this process' id.
    """
    command, _, argument = payload.removeprefix("first:").partition(" ")
    if not (payload.startswith("first:") and attempt != "first"):
        COMMANDS[command](argument)
    number = argument.split()[0] if argument else "0"
    return np.array([int(number) if number.lstrip("-").isdigit() else 0, os.getpid()])


def _hang(argument: str) -> None:
    """As decord's get_batch does on some files: native code that keeps the interpreter's lock."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if argument.startswith("/"):
        Path(argument).write_text(str(os.getpid()))
    sum(range(10**14))


def _crash(_: str) -> None:
    ctypes.string_at(0)


def _crash_once(argument: str) -> None:
    """Crash the first time, told by a file."""
    try:
        Path(argument).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGSEGV)


def _refuse(argument: str) -> None:
    raise ValueError(f"cannot read {argument}")


def _devour(_: str) -> None:
    np.ones(2**33, dtype=np.uint8)


COMMANDS = {
    "ok": lambda _: None,
    "slow": lambda argument: time.sleep(float(argument.split()[1])),
    "hang": _hang,
    "crash": _crash,
    "crash_once": _crash_once,
    "refuse": _refuse,
    "devour": _devour,
    "exit": lambda _: os._exit(3),
}


def array_of(payload: tuple[str, tuple[int, ...]], attempt: str) -> np.ndarray:
    """An array of a dtype and shape, filled with its own positions."""
    dtype, shape = payload
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def of_size(payload: tuple[int, str], attempt: str) -> np.ndarray:
    """So many bytes; what comes with the number only makes the payload larger."""
    return np.zeros(payload[0], dtype=np.uint8)


def bad_at_filling(payload: tuple[str, Modality, Request], attempt: str) -> np.ndarray:
    """A video whose decoding crashes or hangs when the cache has all of it decoded, and only then."""
    command, modality, request = payload
    clip_cache.Place.write = lambda *_: COMMANDS[command]("")  # type: ignore[method-assign]
    return modality.load(request, attempt)


def transposed(payload: int, attempt: str) -> np.ndarray:
    """An array that does not lie in memory in its own order."""
    return np.arange(payload * 1000).reshape(1000, payload).T


def no_array(payload: int, attempt: str) -> np.ndarray:
    """What cannot be sent as bytes."""
    return np.array([object()])
