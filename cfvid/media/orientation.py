"""How a stored picture is shown: as it is, mirrored or turned, in the eight ways of EXIF and of display matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """What makes a stored picture upright: rows and columns are exchanged first, then it is mirrored."""

    exchanged: bool = False
    """Rows become columns."""
    mirrored_x: bool = False
    """Left to right."""
    mirrored_y: bool = False
    """Top to bottom."""

    @property
    def name(self) -> str:
        """The orientation in words."""
        return _NAMES[self]

    @property
    def is_turn(self) -> bool:
        """Whether the picture is only turned, and not mirrored."""
        return self.exchanged == (self.mirrored_x != self.mirrored_y)

    def upright(self, picture_HWC: np.ndarray) -> np.ndarray:
        """The picture as it is shown; a view of the same memory."""
        shown = picture_HWC.transpose(1, 0, 2) if self.exchanged else picture_HWC
        return shown[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]


AS_STORED = Orientation()
_BY_EXIF = {
    1: AS_STORED,
    2: Orientation(mirrored_x=True),
    3: Orientation(mirrored_x=True, mirrored_y=True),
    4: Orientation(mirrored_y=True),
    5: Orientation(exchanged=True),
    6: Orientation(exchanged=True, mirrored_x=True),
    7: Orientation(exchanged=True, mirrored_x=True, mirrored_y=True),
    8: Orientation(exchanged=True, mirrored_y=True),
}
_NAMES = {
    _BY_EXIF[1]: "as stored",
    _BY_EXIF[2]: "mirrored left to right",
    _BY_EXIF[3]: "turned by 180 degrees",
    _BY_EXIF[4]: "mirrored top to bottom",
    _BY_EXIF[5]: "mirrored along the diagonal from the top left",
    _BY_EXIF[6]: "turned clockwise by 90 degrees",
    _BY_EXIF[7]: "mirrored along the diagonal from the top right",
    _BY_EXIF[8]: "turned counter-clockwise by 90 degrees",
}


def of_exif(number: int) -> Orientation:
    """The orientation that an EXIF number stands for; a number that does not exist counts as none."""
    return _BY_EXIF.get(number, AS_STORED)


def of_frame(frame: Any) -> Orientation:
    """The orientation that the display matrix of a PyAV frame stands for."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV does not know the kind of something else that the frame carries
        return _of_turn(frame.rotation)
    return AS_STORED if matrix is None else of_matrix(np.frombuffer(bytes(matrix), dtype=np.int32))


def of_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation of a display matrix: int32, (9,); a point's new x is `a x + c y` and its new y `b x + d y`.

    One between two of the eight counts as the nearer.
    """
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(exchanged=True, mirrored_x=c < 0, mirrored_y=b < 0)
    return Orientation(mirrored_x=a < 0, mirrored_y=d < 0)


def _of_turn(degrees: int) -> Orientation:
    """The orientation of a turn by counter-clockwise degrees."""
    return _BY_EXIF[(1, 8, 3, 6)[round(degrees / 90) % 4]]
