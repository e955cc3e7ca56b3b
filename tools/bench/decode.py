"""decode: samples per second of the guarded loader against the same decoder in plain worker processes.

The reference is what one would write without cfvid: a torch `Dataset` around the decoder and a `DataLoader` with as
many worker processes. Both sides open the same files, pick the same frames, resize and crop them alike and deliver
the same batches to the parent; a check before the timing counts how many outputs are identical.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cfvid.data import transforms
from cfvid.data.folders import read_folder
from cfvid.data.loader import SampleLoader, open_pool
from cfvid.data.skips import SkipLedger
from cfvid.modalities.base import Modality
from cfvid.modalities.image import ImageInput, ImageModality
from cfvid.modalities.video import VideoInput, VideoModality
from cfvid.sections.stages import RuntimeConfig
from tools.bench.media import make_images, make_videos
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, rate_of

logger = logging.getLogger(__name__)
GOAL = 0.9


@dataclass(frozen=True)
class Size:
    """How much is decoded."""

    num_videos: int
    num_images: int
    passes: int
    """Passes over the files in one round."""
    rounds: int


SIZES = {
    "smoke": Size(num_videos=4, num_images=8, passes=1, rounds=1),
    "small": Size(num_videos=64, num_images=256, passes=2, rounds=5),
}
VIDEO = VideoInput(num_frames=8, frame_rate_hz=5.0, crop_size=112, resize=128)
IMAGE = ImageInput(crop_size=112, resize=128)
_VIDEO_BATCH, _IMAGE_BATCH = 8, 32


def run(options: Options) -> Iterator[Comparison]:
    """One comparison per decoder."""
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="cfvid-bench-") as folder:
        videos = options.videos or make_videos(Path(folder) / "videos", count=size.num_videos)
        for decoder, raw in {"decord": raw_decord, "pyav": raw_pyav}.items():
            yield _compare(VideoModality(VIDEO), decoder, raw, videos, options, size, batch_size=_VIDEO_BATCH)
        images = make_images(Path(folder) / "images", count=size.num_images, width=500, height=375)
        yield _compare(ImageModality(IMAGE), "pillow", raw_pillow, images, options, size, batch_size=_IMAGE_BATCH)


def _compare(
    modality: Modality, decoder: str, raw: Any, media: Path, options: Options, size: Size, *, batch_size: int
) -> Comparison:
    manifest = read_folder(media, suffixes=modality.suffixes)
    ids = [*manifest.ids] * size.passes
    plain = _plain_loader([str(media / sample.path) for sample in manifest], raw, options.workers, batch_size)
    ledger = SkipLedger(num_samples=len(manifest), budget=1.0, stage="bench")
    runtime = RuntimeConfig(num_workers=options.workers)
    with open_pool(modality.load, attempts=(decoder,), runtime=runtime) as pool:
        loader = SampleLoader(manifest, pool=pool, ledger=ledger)

        def candidate() -> float:
            return rate_of(lambda: drain(loader.batches(ids, batch_size=batch_size, look="extract")), units=len(ids))

        def reference() -> float:
            return rate_of(
                lambda: drain(itertools.chain.from_iterable(itertools.repeat(plain, size.passes))), units=len(ids)
            )

        ours = [batch.inputs for batch in loader.batches(manifest.ids, batch_size=batch_size, look="extract")]
        identical = num_identical(ours, list(plain))
        rates = alternate(reference, candidate, rounds=options.rounds or size.rounds)
    return Comparison(
        benchmark="decode",
        what=f"{modality.name} by {decoder}, guarded",
        reference=f"DataLoader over {decoder}",
        unit="samples/s",
        goal=GOAL,
        candidate_rates=rates[0],
        reference_rates=rates[1],
        notes={"workers": options.workers, "identical outputs": f"{identical}/{len(manifest)}"},
    )


def drain(batches: Any) -> None:
    """Take all batches."""
    for _ in batches:
        pass


def num_identical(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> int:
    """Samples that came out alike; 0 when one side left some out, since rows then do not correspond."""
    ours_NV, theirs_NV = torch.cat(ours), torch.cat(theirs)
    if ours_NV.shape != theirs_NV.shape:
        logger.warning("the two sides decoded %d and %d samples", len(ours_NV), len(theirs_NV))
        return 0
    return int((ours_NV == theirs_NV).flatten(1).all(dim=1).sum())


# ---------------------------------------------------------------------------------------------- the reference


def _plain_loader(paths: Sequence[str], raw: Any, workers: int, batch_size: int) -> Any:
    return DataLoader(
        PlainDataset(paths, raw),
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )


class PlainDataset(Dataset[np.ndarray]):
    """Files through a plain function, without any guard.

    Args:
        paths: the files.
        raw: path -> uint8, (1, C, ...).
    """

    def __init__(self, paths: Sequence[str], raw: Any) -> None:
        self.paths, self.raw = list(paths), raw

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        array: np.ndarray = self.raw(self.paths[index])
        return array


def raw_decord(path: str) -> np.ndarray:
    """The centre clip by decord alone: uint8, (1, 3, T, S, S)."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return _clip_view(reader.get_batch(_centre_clip(len(reader), reader.get_avg_fps())).asnumpy())


def raw_pyav(path: str) -> np.ndarray:
    """The centre clip by PyAV alone: uint8, (1, 3, T, S, S)."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        rate_hz = float(stream.average_rate or 25)
        wanted = _centre_clip(stream.frames, rate_hz)
        first = stream.start_time or 0
        container.seek(first + round(wanted[0] / rate_hz / float(stream.time_base or 1)), stream=stream)
        frames: list[np.ndarray] = []
        for frame in container.decode(stream):
            index = round(((frame.pts or 0) - first) * float(stream.time_base or 1) * rate_hz)
            while len(frames) < len(wanted) and index >= wanted[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == len(wanted):
                break
        frames += frames[-1:] * (len(wanted) - len(frames))
        return _clip_view(np.stack(frames))


def raw_pillow(path: str) -> np.ndarray:
    """The centre crop by Pillow alone: uint8, (1, 3, S, S)."""
    from PIL import Image

    with Image.open(path) as image:
        pixels_1HWC = np.array(image.convert("RGB"))[None]
    resized = transforms.resize_short_side(transforms.to_tensor(pixels_1HWC), IMAGE.resize)
    return transforms.even_crops(resized, IMAGE.crop_size, num_crops=1)[0].numpy()


def _centre_clip(num_frames: int, rate_hz: float) -> list[int]:
    """Frame numbers of the centre clip of a video with a steady frame rate."""
    start_s = max(0.0, num_frames / rate_hz - VIDEO.clip_seconds) / 2
    instants = start_s + np.arange(VIDEO.num_frames) / VIDEO.frame_rate_hz
    return np.clip((instants + 5e-4) * rate_hz, 0, num_frames - 1).astype(int).tolist()


def _clip_view(frames_THWC: np.ndarray) -> np.ndarray:
    resized = transforms.resize_short_side(transforms.to_tensor(frames_THWC), VIDEO.resize)
    crop = transforms.even_crops(resized, VIDEO.crop_size, num_crops=1)[0]
    return crop.transpose(0, 1)[None].numpy()
