"""The embedded data sets: small, drawn on first use, and still real media (H.264 and JPEG).

Two pairs, each one label set to pre-train on and a different one to transfer to:

    video   "motion"   -> "gestures"     the class is in the motion alone; one frame does not tell it
    image   "textures" -> "shapes"       the class is in the texture; in the outline

`generate("motion", root)` writes

    <root>/
      motion-v1-seed0-train24-val8-64px/     name, drawing version, seed, files per class, picture size
        train/
          translate_left/
            0000.mp4                         64x64 pixels, 30 frames, 15 frames per second (2 s), no sound
            0001.mp4
          ...                                one folder per class
        val/
          translate_left/0000.mp4 ...
      .motion-v1-seed0-train24-val8-64px.lock       held while writing, stays behind empty
      .motion-v1-seed0-train24-val8-64px.tmp-XXXX/  while writing, or after a kill until the next call

They are drawn in cfvid.data.embedded_drawing, which also says how the motion is hidden from the single frame.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from cfvid.data.embedded_drawing import (
    FRAME_RATE_HZ,
    GESTURES,
    MOTIONS,
    SHAPE_CLASSES,
    TEXTURES,
    Pixels,
    draw_gesture,
    draw_motion,
    draw_shape,
    draw_texture,
)
from cfvid.errors import ConfigError
from cfvid.seeds import stream

VERSION = 1  # part of the folder name; raise it when a drawing changes, or old files pass for new
JPEG_QUALITY = 90


# --- the data sets


@dataclass(frozen=True)
class EmbeddedSet:
    """One embedded data set."""

    name: str
    modality: str  # "video" or "image"
    classes: tuple[str, ...]
    num_train_per_class: int
    num_val_per_class: int
    draw: Callable[[np.random.Generator, str, int], Pixels]
    """(rng, class name, size in pixels) -> one sample: uint8 [T, H, W, C] (clip) or [H, W, C] (picture)."""
    description: str


EMBEDDED: dict[str, EmbeddedSet] = {
    "motion": EmbeddedSet(
        "motion", "video", tuple(MOTIONS), 24, 8, draw_motion,
        "clips of one shape that travels, orbits, grows or shrinks; for pre-training",
    ),
    "gestures": EmbeddedSet(
        "gestures", "video", tuple(GESTURES), 20, 12, draw_gesture,
        "clips of one shape that shakes, spins or pulses; the video transfer target",
    ),
    "textures": EmbeddedSet(
        "textures", "image", tuple(TEXTURES), 60, 20, draw_texture,
        "pictures of textures, partly covered; for pre-training",
    ),
    "shapes": EmbeddedSet(
        "shapes", "image", SHAPE_CLASSES, 40, 20, draw_shape,
        "pictures of outlines, textured at random; the image transfer target",
    ),
}  # fmt: skip


def generate(
    name: str,
    root: Path,
    *,
    seed: int = 0,
    num_train_per_class: int | None = None,
    num_val_per_class: int | None = None,
    size: int = 64,
) -> Path:
    """Write one embedded data set below `root`, unless it is there already, and return its folder.

    The same arguments give the same bytes on the same machine. A killed call leaves nothing that is taken for
    a whole set; of several calls at once, one writes and the others wait for it.

    Args:
        name: a key of EMBEDDED.
        root: the folder that holds the sets; made if missing.
        seed: every sample's random stream comes from (seed, name, split, class, index).
        num_train_per_class: files per class in train; None for the set's own number. The same for val.
        size: width and height in pixels, an even number.
    """
    if name not in EMBEDDED:
        raise ConfigError(f"no embedded data set is called {name!r}", fix=f"use one of: {', '.join(EMBEDDED)}")
    spec = EMBEDDED[name]
    counts = {
        "train": spec.num_train_per_class if num_train_per_class is None else num_train_per_class,
        "val": spec.num_val_per_class if num_val_per_class is None else num_val_per_class,
    }
    _check_numbers(counts, size=size)
    folder = Path(root) / f"{name}-v{VERSION}-seed{seed}-train{counts['train']}-val{counts['val']}-{size}px"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # freed however its owner ends, so it is never stale
        if not folder.is_dir():  # else another process wrote it while this one waited
            _write_whole(spec, folder, seed=seed, counts=counts, size=size)
    return folder


def _check_numbers(counts: dict[str, int], *, size: int) -> None:
    """Refuse numbers that no set can be drawn with."""
    for split, count in counts.items():
        if count < 1:
            raise ConfigError(f"num_{split}_per_class is {count}", why="no class may be empty", fix="give 1 or more")
    if size < 16 or size % 2:
        raise ConfigError(f"size is {size}", why="H.264 in yuv420p needs even sides", fix="give 16, 18, 20, ...")


def _write_whole(spec: EmbeddedSet, folder: Path, *, seed: int, counts: dict[str, int], size: int) -> None:
    """Write into a temporary sibling, then rename: `folder` exists only when every file in it does."""
    prefix = f".{folder.name}.tmp-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # the lock is ours, so whoever wrote these is dead
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private; a data set may be shared
        for split, count in counts.items():
            for class_name in spec.classes:
                class_folder = temporary / split / class_name
                class_folder.mkdir(parents=True)
                for index in range(count):
                    rng = stream(seed, spec.name, split, class_name, index)
                    _write_sample(spec.draw(rng, class_name, size), class_folder / f"{index:04d}")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_sample(pixels: Pixels, stem: Path) -> None:
    """Write a clip [T, H, W, C] as stem.mp4 or a picture [H, W, C] as stem.jpg, down to the disk."""
    is_clip = pixels.ndim == 4
    path = stem.with_suffix(".mp4" if is_clip else ".jpg")
    (_write_mp4 if is_clip else _write_jpeg)(pixels, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write_jpeg(pixels_HWC: Pixels, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels_HWC).save(path, quality=JPEG_QUALITY)


def _write_mp4(frames_THWC: Pixels, path: Path) -> None:
    """Encode uint8 RGB frames as H.264 in MP4, for the same bytes every time: one thread, no B-frames."""
    import av

    with av.open(str(path), "w") as container:
        options = {"crf": "18", "preset": "veryfast", "bf": "0"}
        video = container.add_stream("libx264", rate=FRAME_RATE_HZ, options=options)
        video.codec_context.thread_count = 1
        video.height, video.width = frames_THWC.shape[1:3]
        video.pix_fmt = "yuv420p"
        for pixels in frames_THWC:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
