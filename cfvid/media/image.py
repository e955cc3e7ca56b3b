"""Pictures through Pillow: an allow-list of formats, a size limit, upright, any colour mode to RGB."""

from __future__ import annotations

import contextlib
import contextvars
import re
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from cfvid.errors import UnreadableSample
from cfvid.media.source import Media, opener
from cfvid.sections.stages import MAX_IMAGE_MEGAPIXELS

_SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
FORMATS = tuple(_SUFFIXES_OF)
"""Formats that are opened; Pillow has many more decoders than training data needs."""
SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES_OF.values() for suffix in suffixes)
_max_megapixels = contextvars.ContextVar("max_megapixels", default=MAX_IMAGE_MEGAPIXELS)
"""Larger pictures are refused before their pixels are allocated."""
_ADDRESS = re.compile(r"<_io.BytesIO object at 0x[0-9a-f]+>")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


@contextlib.contextmanager
def pixel_limit(megapixels: float) -> Iterator[None]:
    """Inside, this thread reads pictures of up to so many million pixels."""
    token = _max_megapixels.set(megapixels)
    try:
        yield
    finally:
        _max_megapixels.reset(token)


def read_image(media: Media) -> np.ndarray:
    """Decode the first frame of a picture, a file or a member of a shard.

    Transparent pixels are laid on white; 16-bit and float greys are scaled to 8 bits.

    Returns:
        uint8, (H, W, 3), RGB, upright.

    Raises:
        UnreadableSample: when the file is missing, not of an allowed format, too large or damaged.
    """
    try:
        with _opened(media) as image:
            image.load()
            rgb, turn = to_rgb(image), _TURNS.get(orientation_of(image))
            return np.array(rgb if turn is None else rgb.transpose(turn))
    except UnreadableSample:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        # The path is named elsewhere: reasons are counted, so they must not differ from file to file.
        message = _ADDRESS.sub("", str(error)).replace(repr(str(media)), "").replace(str(media), "")
        raise UnreadableSample(f"{type(error).__name__}: {message.strip()}") from error


def format_and_orientation(media: Media) -> tuple[str, int]:
    """The format of a readable picture in lower case, and its EXIF orientation, from 1 (upright) to 8."""
    with _opened(media) as image:
        return (image.format or "").lower(), orientation_of(image)


@contextlib.contextmanager
def _opened(media: Media) -> Iterator[Image.Image]:
    """A picture whose header has been read, and whose size is within the limit.

    Raises:
        UnreadableSample: when it is not.
    """
    most, of_pillow = _max_megapixels.get(), Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        # Warnings tell of harmless metadata. The size is checked here, by one limit and not by Pillow's as well.
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            with Image.open(opener(media)(), formats=FORMATS) as image:
                width, height = image.size
                if width * height > most * 1_000_000:
                    limit = f"{most:g} megapixels (runtime.max_image_megapixels)"
                    raise UnreadableSample(f"{width}x{height} pixels exceed the limit of {limit}")
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = of_pillow


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled_to_8_bits(np.asarray(image), known_bits=_known_bits(image))).convert("RGB")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    # Converting would copy it.
    return image if image.mode == "RGB" else image.convert("RGB")


def _known_bits(image: Image.Image) -> int | None:
    """The depth that a grey picture's file tells, as far as Pillow hands it on."""
    return 16 if image.mode.startswith("I;16") or image.format in {"PNG", "PPM"} else None


def _scaled_to_8_bits(grey: np.ndarray, *, known_bits: int | None) -> np.ndarray:
    """Wide integer greys by their depth, floats by their range (0..1, or 0..255 where they exceed 1)."""
    if grey.dtype.kind == "f":
        values = np.nan_to_num(grey, posinf=255.0, neginf=0.0)
        return np.clip(values * (255.0 if values.max(initial=0.0) <= 1.0 else 1.0), 0, 255).astype(np.uint8)
    values = grey.astype(np.int64)
    highest = values.max(initial=0)
    # 32-bit integers hold greys of any depth: the brightest pixel is all there is to go by.
    bits = known_bits or (8 if highest < 2**8 else 16 if highest < 2**16 else 32)
    return np.clip(values >> (bits - 8), 0, 255).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata of a good picture, in as many ways as damaged pictures
        return 1
