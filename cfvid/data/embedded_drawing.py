"""How the embedded data sets are drawn: textures, shapes and motions to uint8 pixels; nothing touches the disk here.

How the motion classes are kept out of the single frame: the picture is a torus (what leaves at the left comes
back at the right), the start is uniform on it, and so is every later position, whatever the path. Sizes that
change run through one cycle from a random phase; sizes that do not are frozen at a random phase of it.
So position, size, angle, colour and texture have one distribution at any one moment, in every class.
A consequence for users: mirroring a clip swaps left with right and clockwise with counterclockwise.

Axis letters: T frames, H rows, W columns, C colours (RGB). The picture spans -1..1 in x (to the right) and in
y (downwards), so growing angles turn clockwise as seen, and one unit is half the picture.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_FRAMES = 30
FRAME_RATE_HZ = 15

Floats = NDArray[np.floating[Any]]  # drawn in float32 or, where numpy widens it, float64
Pixels = NDArray[np.uint8]
Field = Callable[[Floats, Floats], Floats]  # a value for every point (u, v); any shape in, the same shape out


# --- textures: values 0..1; a repeat is 9 pixels of 64 at least, to survive shrinking to 32


def _square_wave(wave: Floats) -> Floats:
    """A sine (-1..1) to soft-edged 0..1 bands."""
    return np.clip(0.5 + 1.5 * wave, 0, 1)


def _stripes(rng: np.random.Generator, *, angles_deg: tuple[int, ...]) -> Field:
    """Bands across one of the directions given, up to 8 degrees off."""
    angle = math.radians(rng.choice(angles_deg) + rng.uniform(-8, 8))
    frequency, phase = 2 * math.pi / rng.uniform(0.3, 0.6), rng.uniform(0, 2 * math.pi)
    return lambda u, v: _square_wave(np.sin(frequency * (u * math.cos(angle) + v * math.sin(angle)) + phase))


def _checkerboard(rng: np.random.Generator) -> Field:
    frequency, (phase_u, phase_v) = math.pi / rng.uniform(0.2, 0.4), rng.uniform(0, 2 * math.pi, 2)
    return lambda u, v: _square_wave(4 * np.sin(frequency * u + phase_u) * np.sin(frequency * v + phase_v))


def _dots(rng: np.random.Generator) -> Field:
    """Round dots on a square lattice."""
    period, (shift_u, shift_v) = rng.uniform(0.35, 0.6), rng.uniform(0, 1, 2)

    def field(u: Floats, v: Floats) -> Floats:
        radius = np.hypot((u / period + shift_u) % 1 - 0.5, (v / period + shift_v) % 1 - 0.5)
        return np.clip((0.34 - radius) * 10, 0, 1)

    return field


def _rings(rng: np.random.Generator) -> Field:
    frequency, phase = 2 * math.pi / rng.uniform(0.3, 0.6), rng.uniform(0, 2 * math.pi)
    centre_u, centre_v = rng.uniform(-0.4, 0.4, 2)
    return lambda u, v: _square_wave(np.sin(frequency * np.hypot(u - centre_u, v - centre_v) + phase))


def _noise(rng: np.random.Generator, *, smooth: bool) -> Field:
    """Random values on a lattice: hard tiles, or blended into clouds."""
    lattice = rng.random((16, 16), dtype=np.float32)
    cell, shift = rng.uniform(0.25, 0.45), rng.uniform(0, 16, 2)

    def field(u: Floats, v: Floats) -> Floats:
        u, v = u / cell + shift[0], v / cell + shift[1]
        i, j = np.floor(u).astype(int), np.floor(v).astype(int)
        if not smooth:
            return lattice[i % 16, j % 16]
        a, b = u - i, v - j
        a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
        low = lattice[i % 16, j % 16] * (1 - b) + lattice[i % 16, (j + 1) % 16] * b
        high = lattice[(i + 1) % 16, j % 16] * (1 - b) + lattice[(i + 1) % 16, (j + 1) % 16] * b
        return low * (1 - a) + high * a

    return field


TEXTURES: dict[str, Callable[[np.random.Generator], Field]] = {
    "horizontal_stripes": partial(_stripes, angles_deg=(90,)),
    "vertical_stripes": partial(_stripes, angles_deg=(0,)),
    "diagonal_stripes": partial(_stripes, angles_deg=(-45, 45)),
    "checkerboard": _checkerboard,
    "dots": _dots,
    "rings": _rings,
    "clouds": partial(_noise, smooth=True),
    "tiles": partial(_noise, smooth=False),
}


def _any_texture(rng: np.random.Generator) -> Field:
    return TEXTURES[str(rng.choice(list(TEXTURES)))](rng)


# --- shapes: signed distance to the outline (negative inside), all within the unit circle


def _box(u: Floats, v: Floats, *, half_u: float, half_v: float) -> Floats:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _star(u: Floats, v: Floats) -> Floats:
    """Five points. The plane is folded onto half a point, whose edge is one straight line."""
    half_point = math.pi / 5
    angle = np.abs(np.arctan2(v, u) % (2 * half_point) - half_point)
    radius = np.hypot(u, v)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    edge_u, edge_v = math.cos(half_point) - 0.42, math.sin(half_point)  # from the notch (0.42, 0) to the tip
    return ((along - 0.42) * edge_v - across * edge_u) / math.hypot(edge_u, edge_v)


def _pointer(u: Floats, v: Floats, *, back: float = 0.7, half_width: float = 0.6) -> Floats:
    """A long triangle that points along +u."""
    length = 1 + back
    side = (half_width * (u - 1) + length * np.abs(v)) / math.hypot(half_width, length)
    return np.maximum(side, -back - u)


SHAPES: dict[str, Field] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.8,
    "square": partial(_box, half_u=0.7, half_v=0.7),
    "triangle": partial(_pointer, back=0.5, half_width=0.866),
    "star": _star,
    "cross": lambda u, v: np.minimum(_box(u, v, half_u=0.9, half_v=0.3), _box(u, v, half_u=0.3, half_v=0.9)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) - 0.22,
    # From here on only a full turn brings the shape back, so that turning shows and its sense is clear.
    "half_disc": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, -0.1 - u),
    "pointer": _pointer,
    "corner": lambda u, v: np.maximum(
        _box(u, v, half_u=0.7, half_v=0.7), -_box(u - 0.5, v - 0.5, half_u=0.6, half_v=0.6)
    ),
}
SHAPE_CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
TURNING_SHAPES = ("half_disc", "pointer", "corner")


# --- painting


def _grid(size: int) -> tuple[Floats, Floats]:
    """x and y of every pixel's centre, float32 [H, W] each."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(centres, centres)
    return x, y


def _colour(rng: np.random.Generator, *, low: float, high: float) -> Floats:
    """Any hue, with a brightness (luma, 0..1) between low and high. RGB, float32 [3]."""
    rgb = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1.0), 1.0), dtype=np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.clip(rng.uniform(low, high) + 0.6 * (rgb - luma), 0, 1).astype(np.float32)


def _blend(below: Floats, above: Floats, weight: Floats) -> Floats:
    """`above` over `below` where weight (no colour axis) is 1."""
    return below + (above - below) * weight[..., None]


def _paint(rng: np.random.Generator, field: Floats, *, low: float, high: float) -> Floats:
    """A texture's values [...] in two random colours of like brightness, float32 [..., C]."""
    return _blend(_colour(rng, low=low, high=high), _colour(rng, low=low, high=high), field)


def _local(x: Floats, y: Floats, *, scale: float | Floats, angle: float | Floats) -> tuple[Floats, Floats]:
    """Picture offsets to a shape's own coordinates: turned back by angle (radians), divided by scale."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def _mask(shape: str, u: Floats, v: Floats, *, scale: float | Floats, size: int) -> Floats:
    """1 inside the shape, 0 outside, with an edge one pixel soft."""
    return np.clip(0.5 - SHAPES[shape](u, v) * scale * (size / 2), 0, 1).astype(np.float32)


def _to_uint8(picture: Floats) -> Pixels:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


# --- motions: how a pose changes over time


@dataclass(frozen=True)
class Poses:
    """Where the shape is in each frame; every field float32 [T]."""

    x: Floats
    y: Floats
    size_phase: Floats  # 0..1 through the cycle of sizes of the data set
    angle: Floats  # radians, clockwise as seen


def _still(rng: np.random.Generator) -> Poses:
    """A shape that stays at a random place with a random size and angle."""
    x, y, size_phase, angle = rng.uniform([-1, -1, 0, 0], [1, 1, 1, 2 * math.pi])
    return Poses(*(np.full(NUM_FRAMES, value, dtype=np.float32) for value in (x, y, size_phase, angle)))


def _cycles(rng: np.random.Generator, *, period_s: tuple[float, float]) -> Floats:
    """Cycles done at each frame, from a random phase; float32 [T].

    No period below is under 1 s, so 5 Hz sampling sees a cycle five times or more: its sense stays clear.
    """
    seconds = np.arange(NUM_FRAMES, dtype=np.float32) / FRAME_RATE_HZ
    return (rng.uniform() + seconds / rng.uniform(*period_s)).astype(np.float32)


def _translate(rng: np.random.Generator, poses: Poses, *, heading_deg: float) -> Poses:
    """Straight on; one cycle is once across the picture, 2 units."""
    heading = math.radians(heading_deg + rng.uniform(-10, 10))
    way = 2 * _cycles(rng, period_s=(1.3, 2.2))
    return replace(poses, x=poses.x + way * math.cos(heading), y=poses.y + way * math.sin(heading))


def _orbit(rng: np.random.Generator, poses: Poses, *, sense: int) -> Poses:
    """Round a circle without turning itself; sense +1 is clockwise."""
    turn, radius = 2 * math.pi * sense * _cycles(rng, period_s=(1.2, 1.9)), rng.uniform(0.4, 0.55)
    return replace(poses, x=poses.x + radius * np.cos(turn), y=poses.y + radius * np.sin(turn))


def _resize(rng: np.random.Generator, poses: Poses, *, sense: int, period_s: tuple[float, float]) -> Poses:
    """Run through the cycle of sizes, forwards (+1) or backwards (-1)."""
    return replace(poses, size_phase=poses.size_phase + sense * _cycles(rng, period_s=period_s))


def _shake(rng: np.random.Generator, poses: Poses, *, headings_deg: tuple[int, ...]) -> Poses:
    """To and fro along one of the directions given."""
    heading = math.radians(rng.choice(headings_deg) + rng.uniform(-10, 10))
    way = rng.uniform(0.35, 0.5) * np.sin(2 * math.pi * _cycles(rng, period_s=(1.0, 1.4)))
    return replace(poses, x=poses.x + way * math.cos(heading), y=poses.y + way * math.sin(heading))


def _spin(rng: np.random.Generator, poses: Poses, *, sense: int) -> Poses:
    """Turn on the spot; sense +1 is clockwise."""
    return replace(poses, angle=poses.angle + 2 * math.pi * sense * _cycles(rng, period_s=(1.3, 2.2)))


Motion = Callable[[np.random.Generator, Poses], Poses]
MOTIONS: dict[str, Motion] = {
    "translate_left": partial(_translate, heading_deg=180),
    "translate_right": partial(_translate, heading_deg=0),
    "translate_up": partial(_translate, heading_deg=-90),
    "translate_down": partial(_translate, heading_deg=90),
    "orbit_clockwise": partial(_orbit, sense=1),
    "orbit_counterclockwise": partial(_orbit, sense=-1),
    "expand": partial(_resize, sense=1, period_s=(1.2, 1.9)),
    "contract": partial(_resize, sense=-1, period_s=(1.2, 1.9)),
}
GESTURES: dict[str, Motion] = {
    "shake_horizontal": partial(_shake, headings_deg=(0,)),
    "shake_vertical": partial(_shake, headings_deg=(90,)),
    "shake_diagonal": partial(_shake, headings_deg=(-45, 45)),
    "spin_clockwise": partial(_spin, sense=1),
    "spin_counterclockwise": partial(_spin, sense=-1),
    "pulse": partial(_resize, sense=1, period_s=(1.0, 1.4)),
}


def _sawtooth_size(phase: Floats) -> Floats:
    """Grows evenly from small to large, then jumps back: forwards it expands, backwards it contracts."""
    return (0.25 * (0.7 / 0.25) ** (phase % 1)).astype(np.float32)


def _wave_size(phase: Floats) -> Floats:
    """Swells and shrinks smoothly."""
    return (0.54 * 1.4 ** np.sin(2 * math.pi * phase)).astype(np.float32)


def _draw_clip(
    rng: np.random.Generator,
    class_name: str,
    size: int,
    *,
    motions: dict[str, Motion],
    shapes: tuple[str, ...],
    size_of_phase: Callable[[Floats], Floats],
) -> Pixels:
    """One textured shape that moves over a still, darker texture; uint8 [T, H, W, C]."""
    poses = motions[class_name](rng, _still(rng))
    x_HW, y_HW = _grid(size)
    dx_THW = (x_HW - poses.x[:, None, None] + 1) % 2 - 1  # the shorter way round the torus
    dy_THW = (y_HW - poses.y[:, None, None] + 1) % 2 - 1
    scale = size_of_phase(poses.size_phase)[:, None, None]
    u, v = _local(dx_THW, dy_THW, scale=scale, angle=poses.angle[:, None, None])
    background = _paint(rng, _any_texture(rng)(x_HW, y_HW), low=0.05, high=0.35)
    fill = _paint(rng, _any_texture(rng)(u / 2, v / 2), low=0.65, high=0.95)
    return _to_uint8(_blend(background, fill, _mask(str(rng.choice(shapes)), u, v, scale=scale, size=size)))


draw_motion = partial(_draw_clip, motions=MOTIONS, shapes=tuple(SHAPES), size_of_phase=_sawtooth_size)
draw_gesture = partial(_draw_clip, motions=GESTURES, shapes=TURNING_SHAPES, size_of_phase=_wave_size)


def draw_texture(rng: np.random.Generator, class_name: str, size: int) -> Pixels:
    """A texture all over, partly covered by two plain shapes; uint8 [H, W, C]."""
    x, y = _grid(size)
    dark, bright = _colour(rng, low=0.05, high=0.35), _colour(rng, low=0.65, high=0.95)
    picture = _blend(dark, bright, TEXTURES[class_name](rng)(x, y))
    for _ in range(2):
        scale, angle, (x0, y0) = rng.uniform(0.2, 0.4), rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1, 2)
        u, v = _local(x - x0, y - y0, scale=scale, angle=angle)
        mask = _mask(str(rng.choice(list(SHAPES))), u, v, scale=scale, size=size)
        picture = _blend(picture, _colour(rng, low=0.1, high=0.9), mask)
    return _to_uint8(picture)


def draw_shape(rng: np.random.Generator, class_name: str, size: int) -> Pixels:
    """A textured shape over another texture, anywhere that it fits; uint8 [H, W, C]."""
    x, y = _grid(size)
    scale, angle = rng.uniform(0.4, 0.75), rng.uniform(0, 2 * math.pi)
    x0, y0 = rng.uniform(scale - 1, 1 - scale, 2)
    u, v = _local(x - x0, y - y0, scale=scale, angle=angle)
    background = _paint(rng, _any_texture(rng)(x, y), low=0.05, high=0.35)
    fill = _paint(rng, _any_texture(rng)(u / 2, v / 2), low=0.65, high=0.95)
    return _to_uint8(_blend(background, fill, _mask(class_name, u, v, scale=scale, size=size)))
