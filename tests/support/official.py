"""Small data sets in official layouts, with media that decode."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.media import corners_picture, write_video

from cfvid.data.loader import Request
from cfvid.data.manifest import Manifest
from cfvid.data.official.tree import Prepared
from cfvid.modalities import MODALITIES

VIDEOS, IMAGES = (MODALITIES[name].suffixes for name in ("video", "image"))


@functools.cache
def _video_bytes(suffix: str) -> bytes:
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    with tempfile.TemporaryDirectory() as folder:
        return write_video(Path(folder) / f"clip{suffix}", 30, codec=codec).read_bytes()


def add_videos(root: Path, *names: str) -> None:
    """The same clip of two seconds, in the container that each name says."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_video_bytes(path.suffix.lower()))


def add_images(root: Path, *names: str) -> None:
    """The same picture, in the format that each name says."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(corners_picture()).save(path)


def add_text(root: Path, name: str, *lines: str, start: str = "", end: str = "\n") -> None:
    """A text file of these lines."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((start + "".join(line + end for line in lines)).encode())


def reading(reader: Callable[..., Prepared], *, suffixes: frozenset[str]) -> Callable[..., Prepared]:
    """A reader for media of one kind."""
    return functools.partial(reader, suffixes=suffixes)


def rows(prepared: Prepared) -> dict[str, tuple[tuple[str, ...], str]]:
    """Labels and split by sample id, after a look at every file."""
    manifest = prepared.manifest
    assert all(manifest.locate(sample).is_file() for sample in manifest)
    return {sample.sample_id: (sample.labels, sample.split) for sample in manifest}


def decoded(manifest: Manifest, row: int = 0, *, modality: str) -> np.ndarray:
    """One training view of a sample, as the engine reads it."""
    sample = manifest[row]
    kind = MODALITIES[modality]
    values: dict[str, Any] = {"crop_size": 32, "resize": 40, "num_frames": 4, "frame_rate_hz": 5.0}
    options = kind.Input(**{key: value for key, value in values.items() if key in kind.Input.model_fields})
    request = Request(sample.sample_id, manifest.locate(sample), sample.start_s, sample.end_s, "train", 0)
    return kind(options).load(request, kind.decoders[-1])
