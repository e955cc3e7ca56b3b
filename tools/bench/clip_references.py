"""The other sides of `clips`: what one would write around a decoder, each for the frames of a plan.

Each takes a `Plan` and gives the views that cfvid gives for the same request: uint8, (V, 3, T, S, S).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from cfvid.data import clip_sampling, transforms
from cfvid.modalities.video import VideoInput


@dataclass(frozen=True)
class Plan:
    """The frames of one file that are wanted, found before the timing."""

    path: str
    clips: list[list[int]]
    """Frame numbers by clip."""
    times_s: list[list[float]]
    """Their times, the file's first frame at 0."""
    options: VideoInput
    seed: int | None
    """Of the random crop; None for the centre."""


def by_pytorchvideo(plan: Plan) -> np.ndarray:
    """pytorchvideo: `get_clip` decodes and converts all frames of the clip's time; some are kept."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(plan.path, decode_audio=False)
    clips = []
    for times_s in plan.times_s:
        # From half a millisecond before the first frame to as much after the last one.
        start, end = (Fraction(round(t * 1e6), 10**6) for t in (max(0.0, times_s[0] - 5e-4), times_s[-1] + 5e-4))
        frames_CTHW = video.get_clip(start, end)["video"]
        # As pytorchvideo's UniformTemporalSubsample, whose module does not import with newer torchvisions.
        kept = torch.linspace(0, frames_CTHW.shape[1] - 1, len(times_s)).long()
        clips.append(torch.index_select(frames_CTHW, 1, kept).to(torch.uint8).permute(1, 2, 3, 0).numpy())
    video.close()
    return views_of(clips, plan)


def by_decord(plan: Plan) -> np.ndarray:
    """decord: one reader, one batch of all frames."""
    import decord

    reader = decord.VideoReader(plan.path, ctx=decord.cpu(0), num_threads=1)
    wanted = sorted(set().union(*plan.clips))
    frames = dict(zip(wanted, reader.get_batch(wanted).asnumpy(), strict=True))
    return views_of([np.stack([frames[index] for index in clip]) for clip in plan.clips], plan)


def by_pyav(plan: Plan) -> np.ndarray:
    """PyAV: a seek to each clip that does not overlap the one before, then frame by frame."""
    import av

    frames: dict[int, np.ndarray] = {}
    with av.open(plan.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for run in _runs(plan):
            _decode_run(container, stream, run, frames)
    return views_of([np.stack([frames[index] for index in clip]) for clip in plan.clips], plan)


def _runs(plan: Plan) -> list[dict[int, float]]:
    """Clips that overlap together: frame number -> time, ascending."""
    runs: list[dict[int, float]] = []
    last_s = -1.0
    for clip, times_s in zip(plan.clips, plan.times_s, strict=True):
        if times_s[0] > last_s:
            runs.append({})
        runs[-1] |= dict(zip(clip, times_s, strict=True))
        last_s = times_s[-1]
    return [dict(sorted(run.items())) for run in runs]


def _decode_run(container: Any, stream: Any, run: dict[int, float], frames: dict[int, np.ndarray]) -> None:
    first, base = stream.start_time or 0, float(stream.time_base)
    waiting = list(run.items())
    container.seek(first + round(waiting[0][1] / base), stream=stream)
    for frame in container.decode(stream):
        if (frame.pts - first) * base > waiting[0][1] - 5e-4:
            frames[waiting.pop(0)[0]] = frame.to_ndarray(format="rgb24", threads=1)
            if not waiting:
                return


def views_of(clips: list[np.ndarray], plan: Plan) -> np.ndarray:
    """Resized and cropped as `VideoModality` does it."""
    options = plan.options
    views = []
    for frames_THWC in clips:
        frames_TCHW = transforms.resize_short_side(transforms.to_tensor(frames_THWC), options.resize)
        if plan.seed is None:
            crop = transforms.even_crops(frames_TCHW, options.crop_size, num_crops=1)[0]
        else:
            rng = np.random.default_rng(plan.seed)
            clip_sampling.random_start(1.0, 0.0, rng)  # drawn when the clip was chosen
            rng.integers(options.resize, options.resize + 1)
            crop = transforms.random_crop(frames_TCHW, options.crop_size, rng=rng)
        views.append(crop.transpose(0, 1))
    return torch.stack(views).numpy()


REFERENCES = {"pytorchvideo": by_pytorchvideo, "raw decord": by_decord, "raw PyAV": by_pyav}
