"""What one media file is, found by decoding all of it, and hashes of how it looks."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.fft import dctn

from cfvid.artifacts import digest_file
from cfvid.data.clip_sampling import seconds_of, segment
from cfvid.data.loader import Request
from cfvid.media.image import format_and_orientation, read_image
from cfvid.media.orientation import of_exif
from cfvid.media.source import Media, Member, read_bytes
from cfvid.media.video import OPTIONAL_DECODERS, VIDEO_DECODERS, open_video
from cfvid.media.video_reader import TruncatedVideo, VideoReader

_FRAMES_AT_ONCE = 32
_MOMENTS = (1 / 6, 1 / 2, 5 / 6)
"""Where in a video frames are hashed, as shares of its length."""
_FLAT_BELOW = 2.0
"""Pictures whose grey values deviate less are all alike, and have no hash."""


def probe(request: Request, decoder: str) -> np.ndarray:
    """Decode a whole file: its facts as JSON in uint8 bytes, as guarded processes hand over arrays.

    The facts are width and height in pixels, codec, and orientation (what shows the stored pictures as the file says);
    of a video num_frames, num_claimed (by its container), duration_s, frame_rate_hz, and `notes`, what is made of it
    that a user should know; num_bytes and sha256 of the file; `hashes`, see `perceptual_hash`: of a picture one, of a
    video those of three frames.

    Raises:
        UnreadableSample: when nothing of it decodes.
    """
    of_media = _video(decoder, request) if decoder in VIDEO_DECODERS | OPTIONAL_DECODERS else _image(request.media)
    facts = {**of_media, **_of_bytes(request.media)}
    return np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)


def _of_bytes(media: Media) -> dict[str, Any]:
    if isinstance(media, Member):
        content = read_bytes(media)
        return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"num_bytes": Path(media).stat().st_size, "sha256": digest_file(Path(media))}


def _image(media: Media) -> dict[str, Any]:
    picture = read_image(media)
    codec, orientation = format_and_orientation(media)
    height, width = picture.shape[:2]
    return {
        "width": width,
        "height": height,
        "codec": codec,
        "orientation": of_exif(orientation).name,
        "hashes": [perceptual_hash(picture)],
    }


def _video(decoder: str, request: Request) -> dict[str, Any]:
    with open_video(request.media, decoder=decoder) as reader:
        shown = segment(reader.times_s, request.start_s, request.end_s)
        num_frames, size = _decode_all(reader, shown)
        shown = shown[:num_frames]
        greys = reader.read([int(shown[int(share * num_frames)]) for share in _MOMENTS], _greys)
        seconds = seconds_of(reader.times_s[shown])
        return {
            "width": size[1],
            "height": size[0],
            "num_frames": num_frames,
            "num_claimed": len(segment(reader.times_s, request.start_s, request.end_s)),
            "duration_s": seconds,
            "frame_rate_hz": num_frames / seconds,
            "codec": reader.facts.codec,
            "orientation": reader.facts.orientation.name,
            "notes": list(reader.facts.notes),
            "hashes": [_hash_of(grey) for grey in greys],
        }


def _decode_all(reader: VideoReader, shown: np.ndarray) -> tuple[int, tuple[int, int]]:
    """How many of these frames decode, and the height and width of the first."""
    size = reader.read([int(shown[0])]).shape[1:3]
    done = 0
    with contextlib.suppress(TruncatedVideo):
        for start in range(0, len(shown), _FRAMES_AT_ONCE):
            part = shown[start : start + _FRAMES_AT_ONCE]
            try:
                reader.read(part.tolist(), lambda frames: frames[:, :1, :1].copy())
            except TruncatedVideo as error:
                done += int((part < error.num_decodable).sum())
                raise
            done += len(part)
    return max(1, done), (int(size[0]), int(size[1]))


def perceptual_hash(picture_HWC: np.ndarray) -> int | None:
    """A 64-bit hash that stays nearly the same when a picture is scaled or encoded again; None of a flat one.

    The signs of its 64 lowest frequencies against their median (pHash: Zauner, 2010), by the cosine transform of the
    grey picture at 32 x 32 pixels.
    """
    return _hash_of(_grey(picture_HWC))


def _grey(picture_HWC: np.ndarray) -> np.ndarray:
    """uint8, (32, 32): what a hash is made of."""
    return np.asarray(Image.fromarray(picture_HWC).convert("L").resize((32, 32), Image.Resampling.LANCZOS))


def _greys(pictures_NHWC: np.ndarray) -> np.ndarray:
    return np.stack([_grey(picture) for picture in pictures_NHWC])


def _hash_of(grey: np.ndarray) -> int | None:
    values = grey.astype(np.float64)
    if values.std() < _FLAT_BELOW:
        return None
    low = dctn(values, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
