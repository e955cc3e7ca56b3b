"""clips: clips per second, as training and scoring ask for them, against pytorchvideo, raw decord and raw PyAV.

cfvid reads through its guarded processes, by decord first as by default, by PyAV first, and by TorchCodec first where
it is installed, the references in the workers of a torch `DataLoader`, as many. All are given the same files and
deliver the same frames, crops and batches to the parent; a check before the timing counts how many outputs are
identical. The references are told the frame numbers, which cfvid works out from the file.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cfvid.data import clip_sampling
from cfvid.data.folders import read_folder
from cfvid.data.loader import Look, SampleLoader, open_pool
from cfvid.data.manifest import Manifest
from cfvid.data.skips import SkipLedger
from cfvid.errors import MissingPackage
from cfvid.media.guard import GuardedPool
from cfvid.media.torchcodec_reader import TorchCodecReader
from cfvid.media.video import open_video
from cfvid.modalities.video import VideoInput, VideoModality
from cfvid.sections.stages import RuntimeConfig
from tools.bench.clip_references import REFERENCES, Plan
from tools.bench.decode import drain, num_identical
from tools.bench.media import make_long_video, make_videos
from tools.bench.options import Options
from tools.bench.timing import Comparison, rate_of, take_turns

GOALS = {"pytorchvideo": 1.5, "raw decord": 1.0, "raw PyAV": 1.0}


@dataclass(frozen=True)
class Size:
    """How much is read."""

    num_short: int
    long_seconds: float
    """Of the long videos; 0 for none."""
    copies: int
    """Of each long video: reading one and the same file again and again would be another thing."""
    num_clips: int
    """In one round of one side, about."""
    rounds: int


SIZES = {
    "smoke": Size(num_short=4, long_seconds=0.0, copies=1, num_clips=8, rounds=1),
    "small": Size(num_short=48, long_seconds=30.0, copies=8, num_clips=48, rounds=3),
}
VIDEO = VideoInput(num_frames=8, frame_rate_hz=7.5, crop_size=112, resize=128, flip=False, score_clips=4)
_LOOKS: tuple[Look, ...] = ("train", "score")
_BATCH = 8


@dataclass(frozen=True)
class Work:
    """One look at some files, one after the other."""

    kind: str
    """Of the files."""
    look: Look
    manifest: Manifest
    ids: list[str]
    plans: list[Plan]

    @property
    def seeds(self) -> list[int]:
        """Of each request."""
        return list(range(len(self.ids)))


def run(options: Options) -> Iterator[Comparison]:
    """For each kind of file, each look and each decoder of ours one comparison with each reference."""
    size, modality = SIZES[options.size], VideoModality(VIDEO)
    with tempfile.TemporaryDirectory(prefix="cfvid-bench-") as folder:
        works = [
            _work(kind, media, look, size) for kind, media in _media(Path(folder), options, size) for look in _LOOKS
        ]
        plain = PlainLoader([plan for work in works for plan in work.plans], options.workers)
        with contextlib.ExitStack() as stack:
            pools = {
                decoder: stack.enter_context(open_pool(modality.load, attempts=modality.decoders, runtime=runtime))
                for decoder, runtime in _runtimes(options).items()
            }
            for work in works:
                yield from _compare(work, pools, plain, options, size)


def _runtimes(options: Options) -> dict[str, RuntimeConfig]:
    """By the decoder that is tried first."""
    runtimes = {
        "decord": RuntimeConfig(num_workers=options.workers),
        "pyav": RuntimeConfig(num_workers=options.workers, video_decoder="pyav"),
    }
    with contextlib.suppress(MissingPackage):
        TorchCodecReader.check_installed()
        runtimes["torchcodec"] = RuntimeConfig(num_workers=options.workers, video_decoder="torchcodec")
    return runtimes


def _media(folder: Path, options: Options, size: Size) -> Iterator[tuple[str, Path]]:
    """Kinds of files and where they are."""
    if options.videos:
        yield options.videos.name, options.videos
        return
    yield "short files", make_videos(folder / "short", count=size.num_short)
    for gop in (12, 250) if size.long_seconds else ():
        for width, height in ((320, 240), (640, 480)):
            first = folder / f"{gop}" / "train" / "class0" / f"{width}-0.mp4"
            make_long_video(first, seconds=size.long_seconds, width=width, height=height, gop=gop)
            for number in range(1, size.copies):
                shutil.copyfile(first, first.with_name(f"{width}-{number}.mp4"))
        yield f"long files, GOP {gop}", folder / f"{gop}"


def _work(kind: str, media: Path, look: Look, size: Size) -> Work:
    manifest = read_folder(media, suffixes=VideoModality.suffixes)
    clips_each = 1 if look == "train" else VIDEO.score_clips
    # Files of all sizes, however few: some of each stretch of the list.
    step = max(1, len(manifest) * clips_each // size.num_clips)
    ids = [manifest.ids[number * step % len(manifest)] for number in range(max(_BATCH, size.num_clips // clips_each))]
    return Work(kind, look, manifest, ids, _plans(manifest, ids, look))


def _compare(
    work: Work, pools: dict[str, GuardedPool], plain: PlainLoader, options: Options, size: Size
) -> Iterator[Comparison]:
    fallbacks: Counter[str] = Counter()
    sides: dict[str, Callable[[], Any]] = {
        name: partial(_batches, work, name, pool, fallbacks) for name, pool in pools.items()
    }
    sides |= {name: partial(plain.batches, name, work.plans) for name in REFERENCES}
    outputs = {name: list(side()) for name, side in sides.items()}
    num_fallbacks = dict(fallbacks)
    num_clips = sum(len(plan.clips) for plan in work.plans)
    rates = take_turns(
        {name: partial(_clip_rate, side, num_clips=num_clips) for name, side in sides.items()},
        rounds=options.rounds or size.rounds,
    )
    for decoder, name in itertools.product(pools, REFERENCES):
        identical = num_identical(outputs[decoder], outputs[name])
        yield Comparison(
            benchmark="clips",
            what=f"{work.kind}, {work.look}, {decoder} first",
            reference=name,
            unit="clips/s",
            goal=GOALS[name],
            candidate_rates=rates[decoder],
            reference_rates=rates[name],
            notes={
                "workers": options.workers,
                "identical outputs": f"{identical}/{len(work.ids)}",
                "read by the other decoder": num_fallbacks[decoder],
            },
        )


def _batches(work: Work, decoder: str, pool: GuardedPool, fallbacks: Counter[str]) -> Iterator[Any]:
    """By cfvid."""
    ledger = SkipLedger(num_samples=len(work.manifest), budget=1.0, stage="bench")
    loader = SampleLoader(work.manifest, pool=pool, ledger=ledger)
    for batch in loader.batches(work.ids, batch_size=_BATCH, look=work.look, seeds=work.seeds):
        yield batch.inputs
    fallbacks[decoder] += ledger.fallbacks.total()


def _clip_rate(batches: Callable[[], Any], *, num_clips: int) -> float:
    return rate_of(lambda: drain(batches()), units=num_clips)


# ---------------------------------------------------------------------------------------------- the references' side


class PlainLoader:
    """A `DataLoader` whose workers stay and do for each pass what it asks for: starting them takes long."""

    def __init__(self, plans: list[Plan], workers: int) -> None:
        self._items = [(name, plan) for name in REFERENCES for plan in plans]
        self._place_of = {(name, id(plan)): place for place, (name, plan) in enumerate(self._items)}
        self._chosen: list[list[int]] = []
        self._loader: Any = DataLoader(
            PlanDataset(self._items),
            batch_sampler=self._chosen,
            num_workers=workers,
            persistent_workers=True,
            multiprocessing_context="forkserver",
        )

    def batches(self, reference: str, plans: list[Plan]) -> Iterator[Any]:
        """These plans by one reference, in batches."""
        places = [self._place_of[reference, id(plan)] for plan in plans]
        self._chosen[:] = [places[start : start + _BATCH] for start in range(0, len(places), _BATCH)]
        return iter(self._loader)


class PlanDataset(Dataset[np.ndarray]):
    """Plans, each with the name of the reference that does it."""

    def __init__(self, items: list[tuple[str, Plan]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray:
        name, plan = self.items[index]
        return REFERENCES[name](plan)


# ---------------------------------------------------------------------------------------------- plans


def _plans(manifest: Manifest, ids: list[str], look: Look) -> list[Plan]:
    """What each request comes to, in frames."""
    times: dict[str, np.ndarray] = {}
    plans = []
    for seed, sample_id in enumerate(ids):
        path = manifest.locate(manifest.sample(sample_id))
        if sample_id not in times:
            with open_video(path, decoder="pyav") as reader:
                times[sample_id] = reader.times_s
        times_s = times[sample_id]
        clips = [_frames_at(times_s, start_s) for start_s in _starts(times_s, look, seed)]
        at_s = [times_s[clip].tolist() for clip in clips]
        plans.append(Plan(str(path), clips, at_s, VIDEO, seed if look == "train" else None))
    return plans


def _starts(times_s: np.ndarray, look: Look, seed: int) -> list[float]:
    seconds = clip_sampling.seconds_of(times_s)
    if look == "train":
        return [clip_sampling.random_start(seconds, VIDEO.clip_seconds, np.random.default_rng(seed))]
    return clip_sampling.uniform_starts(seconds, VIDEO.clip_seconds, VIDEO.score_clips)


def _frames_at(times_s: np.ndarray, start_s: float) -> list[int]:
    return clip_sampling.clip_frames(
        times_s,
        start_s=start_s,
        num_frames=VIDEO.num_frames,
        frame_rate_hz=VIDEO.frame_rate_hz,
        short_clip=VIDEO.short_clip,
    ).tolist()
