"""Pictures of every mode come out as upright RGB, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.media import corners_of, corners_picture

from cfvid.errors import UnreadableSample
from cfvid.media.image import SUFFIXES, format_and_orientation, pixel_limit, read_image

UPRIGHT = [[0, 1], [2, 3]]


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a.png", 0),
        ("a.bmp", 0),
        ("a.ppm", 0),
        ("a.tif", 0),
        ("a.webp", 20),
        ("a.jpg", 20),
        ("a.mpo", 20),
        ("a.gif", 0),
        ("a.jfif", 20),
        ("a.jpe", 20),
        ("a.avif", 20),
        ("a.jp2", 0),
        ("a.j2k", 0),
        ("a.pnm", 0),
        ("a.apng", 0),
    ],
)
def test_every_format_that_is_read(name: str, tolerance: int, tmp_path: Path) -> None:
    picture = corners_picture()
    path = save(tmp_path / name, Image.fromarray(picture))
    assert path.suffix in SUFFIXES | {".mpo"}
    pixels = read_image(path)
    assert pixels.shape == (64, 96, 3)
    assert pixels.dtype == np.uint8
    # Blurred colours at the edges are compression's; the quarters themselves are flat.
    assert np.abs(pixels.astype(int) - picture).mean() <= tolerance
    assert corners_of(pixels).tolist() == UPRIGHT


def test_the_first_of_several_frames_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientations_are_undone(orientation: int, suffix: str, tmp_path: Path) -> None:
    """Each stored picture is the upright one, treated by the inverse of what its orientation asks for."""
    stored = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](corners_picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    pixels = read_image(path)
    assert pixels.shape == (64, 96, 3)
    assert corners_of(pixels).tolist() == UPRIGHT


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", Image.fromarray(corners_picture()), exif=exif)
    assert corners_of(read_image(path)).tolist() == UPRIGHT


def test_broken_exif_costs_no_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(corners_picture()), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff")
    assert corners_of(read_image(path)).tolist() == UPRIGHT


def test_grey_is_rgb_of_equal_parts(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=-1))


def test_black_and_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1"))
    assert read_image(path)[..., 0].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_16_bit_greys_are_scaled(suffix: str, tmp_path: Path) -> None:
    wide = np.array([[0, 256, 32_768, 65_535]], dtype=np.uint16)
    pixels = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(wide)))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_dark_16_bit_greys_are_scaled_alike(suffix: str, tmp_path: Path) -> None:
    """The file's depth decides, not the brightest pixel: a dark picture must not come out bright."""
    wide = np.array([[0, 100, 200, 255]], dtype=np.uint16)
    assert read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(wide))).max() == 0


@pytest.mark.parametrize(("values", "expected"), [([0, 255], [0, 255]), ([256, 65_535], [1, 255]), ([0, -9], [0, 0])])
def test_32_bit_greys_are_scaled_by_what_they_hold(values: list[int], expected: list[int], tmp_path: Path) -> None:
    wide = Image.fromarray(np.array([values], dtype=np.int32))
    assert read_image(save(tmp_path / "a.tif", wide))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_float_pictures(peak: float, tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32) * peak
    pixels = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 127, 255]


def test_floats_that_are_no_numbers(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 200.0]], dtype=np.float32)
    pixels = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 0, 255, 200]


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    for name in ("a.png", "a.webp"):
        pixels = read_image(save(tmp_path / name, Image.fromarray(rgba), lossless=True))
        assert pixels[0, :, 0].tolist() == [255, 127, 0]


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8))))
    assert pixels[0].tolist() == [[10, 10, 10], [255, 255, 255]]


def test_palettes_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for name in ("a.png", "a.gif"):
        assert read_image(save(tmp_path / name, image))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
        pixels = read_image(save(tmp_path / f"transparent_{name}", image, transparency=1))
        assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, Image.fromarray(corners_picture()).convert("CMYK"))
    assert corners_of(read_image(path)).tolist() == UPRIGHT


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (8, 8), (200, 128, 128))
    pixels = read_image(save(tmp_path / "a.tif", image))
    assert pixels.shape == (8, 8, 3)
    assert pixels.std() < 8  # a neutral grey
    assert pixels.mean() > 120


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.png", Image.new("RGB", (1, 1), "red"))).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("name", ["missing.png", "folder.png"])
def test_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UnreadableSample):
        read_image(tmp_path / name)


def test_reasons_do_not_name_the_file(tmp_path: Path) -> None:
    """They are counted: the same fault of two files must read the same."""
    reasons = set()
    for name in ("a.png", "it's b.png"):
        (tmp_path / name).write_bytes(b"no picture")
        with pytest.raises(UnreadableSample) as caught:
            read_image(tmp_path / name)
        reasons.add(str(caught.value))
    assert len(reasons) == 1


def test_the_limit_of_pixels_can_be_set(tmp_path: Path) -> None:
    """72 megapixels were refused, and no option lifted the limit of 64; Pillow has one of its own."""
    large, larger = (save(tmp_path / f"{side}.png", Image.new("1", (side, 9000))) for side in (8000, 20_000))
    of_pillow = Image.MAX_IMAGE_PIXELS
    for read in (read_image, format_and_orientation):
        with pytest.raises(UnreadableSample, match=r"8000x9000 .* limit of 64 megapixels \(runtime.max_image_megapix"):
            read(large)
    with pixel_limit(200):
        assert read_image(large).shape == (9000, 8000, 3)
        assert format_and_orientation(larger) == ("png", 1)
        with pixel_limit(71.5), pytest.raises(UnreadableSample, match="limit of 71.5 megapixels"):
            read_image(large)
    assert of_pillow == Image.MAX_IMAGE_PIXELS


def test_formats_that_are_not_allowed(tmp_path: Path) -> None:
    """Whatever the name says: Pillow's rarer decoders are never reached."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tga")
    (tmp_path / "a.tga").rename(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    for name in ("a.png", "b.png"):
        with pytest.raises(UnreadableSample):
            read_image(tmp_path / name)
