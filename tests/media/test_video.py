"""Which files are taken for videos, whatever decodes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.media import write_video

from cfvid.media.video import SUFFIXES, open_video


@pytest.mark.parametrize(
    "suffix", [".mp4", ".m4v", ".3g2", ".f4v", ".asf", ".wmv", ".mpg", ".vob", ".ts", ".mts", ".m2ts"]
)
def test_videos_of_cameras_and_discs_are_read(suffix: str, tmp_path: Path) -> None:
    """`.mts` and its like, as camcorders write them, were left out by their suffix."""
    assert suffix in SUFFIXES
    codec = {".wmv": "wmv2", ".mpg": "mpeg2video", ".vob": "mpeg2video"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a{suffix}", 12, codec=codec, rate=25)
    with open_video(path, decoder="pyav") as reader:
        assert reader.read([0, 11]).shape == (2, 64, 96, 3)
