"""All modalities, in one visible place. A new one is a file in this folder and a line here."""

from __future__ import annotations

from typing import Any

from cfvid.config import RunConfig
from cfvid.modalities.base import Modality
from cfvid.modalities.frame import FrameModality
from cfvid.modalities.image import ImageModality
from cfvid.modalities.video import VideoModality

MODALITIES: dict[str, Any] = {
    "video": VideoModality,
    "image": ImageModality,
    "frame": FrameModality,
}


def build_modality(config: RunConfig) -> Modality:
    """The modality that a configuration names, with its options."""
    modality: Modality = MODALITIES[config.modality](config.input)
    return modality
