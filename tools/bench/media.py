"""Generated media to measure with: H.264 clips and JPEG pictures of the sizes that data sets have."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tools.bench.timing import num_cores

_FRAME_RATES_HZ = (24, 25, 30)
_FEW = 64


def make_videos(folder: Path, *, count: int, width: int = 320, height: int = 240, num_classes: int = 4) -> Path:
    """H.264 clips of 2 to 5 s in FOLDER/train/CLASS/; returns the folder."""
    _each(functools.partial(_make_clip, folder, width=width, height=height, num_classes=num_classes), count)
    return folder


def _make_clip(folder: Path, number: int, *, width: int, height: int, num_classes: int) -> None:
    rng = np.random.default_rng(number)
    path = folder / "train" / f"class{number % num_classes}" / f"{number:04d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    rate_hz = _FRAME_RATES_HZ[number % len(_FRAME_RATES_HZ)]
    num_frames = round(rng.uniform(2.0, 5.0) * rate_hz)
    _write_video(path, rng, rate_hz=rate_hz, num_frames=num_frames, width=width, height=height)


def make_long_video(path: Path, *, seconds: float, width: int, height: int, gop: int) -> None:
    """One H.264 video of 30 frames per second with a key frame at least every `gop` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_frames = round(30 * seconds)
    rng = np.random.default_rng(gop)
    _write_video(path, rng, rate_hz=30, num_frames=num_frames, width=width, height=height, gop=gop, pan_frames=150)


def _write_video(
    path: Path,
    rng: np.random.Generator,
    *,
    rate_hz: int,
    num_frames: int,
    width: int,
    height: int,
    gop: int = 250,
    pan_frames: int | None = None,
) -> None:
    """A camera that pans over a still texture, with sensor noise: motion and residuals, as real footage has.

    It pans once, or to and fro in `pan_frames` each.
    """
    scene_HWC = _texture(rng, height * 2, width * 2)
    noise = rng.integers(-4, 5, size=(8, height, width, 1), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=rate_hz, options={"preset": "veryfast", "crf": "23", "g": str(gop)}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            place = number / num_frames if pan_frames is None else 1 - abs(number / pan_frames % 2 - 1)
            top, left = (round(place * side) for side in (height, width))
            view = scene_HWC[top : top + height, left : left + width] + noise[number % len(noise)]
            frame = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_images(folder: Path, *, count: int, width: int, height: int, num_classes: int = 4) -> Path:
    """JPEG pictures in FOLDER/train/CLASS/; returns the folder."""
    _each(functools.partial(_make_image, folder, width=width, height=height, num_classes=num_classes), count)
    return folder


def _make_image(folder: Path, number: int, *, width: int, height: int, num_classes: int) -> None:
    path = folder / "train" / f"class{number % num_classes}" / f"{number:05d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = _texture(np.random.default_rng(number), height, width)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def _each(make: Callable[[int], None], count: int) -> None:
    """Make so many of them, on all cores where it pays."""
    if count <= _FEW:
        for number in range(count):
            make(number)
        return
    with ProcessPoolExecutor(num_cores(), mp_context=multiprocessing.get_context("spawn")) as processes:
        list(processes.map(make, range(count), chunksize=16))


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Detail at three scales: int16, (H, W, 3), 0 ... 255."""
    layers = []
    for cells in (4, 16, 64):
        coarse = Image.fromarray(rng.integers(0, 256, size=(cells, cells, 3), dtype=np.uint8))
        layers.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16))
    return (layers[0] * 2 + layers[1] + layers[2]) // 4
