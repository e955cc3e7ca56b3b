"""Real odd, broken and hostile files: each is in the store or in the ledger, none in both, and its frames are right.

The whole collection, and UCF101's files as they were published, go through `extract` and a scoring look; what decodes
cleanly is compared with FFmpeg and Pillow, used without cfvid's readers.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps
from support.media import manifest_of
from support.tiny import configure, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.data.loader import SampleLoader, open_pool
from cfvid.data.skips import SkipLedger, read_skips
from cfvid.errors import UnreadableSample
from cfvid.features import FeatureStore
from cfvid.media.image import read_image
from cfvid.media.video import open_video
from cfvid.media.video_reader import Change, TruncatedVideo, VideoReader
from cfvid.modalities import MODALITIES
from cfvid.models.weights import NetworkConfig, save_network
from cfvid.models.zoo import build_network
from cfvid.pipeline import run_stages
from cfvid.sections.stages import RuntimeConfig

CLIPS = {"num_frames": 4, "frame_rate_hz": 4, "crop_size": 32, "resize": 32}


COLLECTIONS = {
    "pictures": ("image", "resnet10_thin", "hard_media/image"),
    "videos": ("video", "r2plus1d_10_thin", "hard_media/video"),
    "UCF101": ("video", "r2plus1d_10_thin", "video_ucf101_original"),
}


def files_of(shared_data: Path, collection: str) -> list[Path]:
    """Listed one by one: by its ending, a reader of folders would pass over the worst of them."""
    folder = shared_data / COLLECTIONS[collection][2]
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return sorted(folder.iterdir())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_file_is_in_the_store_or_in_the_ledger(shared_data: Path, tmp_path: Path, collection: str) -> None:
    modality, arch, _ = COLLECTIONS[collection]
    media = shared_data / COLLECTIONS[collection][2]
    files = [path.name for path in files_of(shared_data, collection)]
    manifest = tmp_path / "hard.csv"
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}","{name.replace(chr(34), chr(34) * 2)}",train' for name in files]
    manifest.write_text("\n".join(["sample_id,path,split", *rows]) + "\n", encoding="utf-8")
    weights = tmp_path / "weights"
    network = build_network(arch, num_classes=2, seed=0)
    save_network(weights, network, NetworkConfig(arch, modality, 2, [], {}))
    pictures = write_pictures(tmp_path / "pictures", train=2, val=1)
    values = tiny_values(
        pictures,
        modality=modality,
        data__clusterfit=[{"path": str(manifest), "media_root": str(media)}],
        data__skip_budget=1.0,
        pretrain__arch=arch,
        pretrain__weights=str(weights),
        extract__batch_size=16,
        runtime__num_workers=2,
        runtime__decode_deadline_s=5.0,
    )
    if modality == "video":
        values["input"] = CLIPS

    run_stages(configure(values), tmp_path / "run", stages=["pretrain", "extract"])

    store = FeatureStore(tmp_path / "run" / "extract")
    skips = {skip.sample_id: skip.reasons for skip in read_skips(tmp_path / "run" / "extract" / "skips.jsonl")}
    assert sorted([*store.ids, *skips]) == files
    assert all(skips.values())
    assert len(store) > 0.4 * len(files)
    assert np.isfinite(store.gather(store.ids)).all()
    fallbacks = Record.read(tmp_path / "run" / "extract", kind="features").facts["fallbacks"]
    if collection == "videos":
        assert fallbacks["pyav"] > 0
    if collection == "UCF101":
        assert not skips


@pytest.mark.timeout(600)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_file_is_scored_or_in_the_ledger(shared_data: Path, collection: str) -> None:
    files = files_of(shared_data, collection)
    kind = COLLECTIONS[collection][0]
    options = {**CLIPS, "score_clips": 10} if kind == "video" else {"crop_size": 32, "resize": 32, "score_crops": 3}
    modality = MODALITIES[kind](MODALITIES[kind].Input(**options))
    manifest = manifest_of(files)
    ledger = SkipLedger(num_samples=len(files), budget=1.0, stage="score")
    scored: list[str] = []
    runtime = RuntimeConfig(num_workers=2, decode_deadline_s=5.0)
    with open_pool(modality.load, attempts=modality.decoders, runtime=runtime) as pool:
        loader = SampleLoader(manifest, pool=pool, ledger=ledger)
        for batch in loader.batches(manifest.ids, batch_size=16, look="score"):
            scored += batch.sample_ids
    assert sorted([*scored, *(skip.sample_id for skip in ledger.skips)]) == sorted(manifest.ids)
    assert len(scored) > 0.4 * len(files)
    assert not any("crashed" in reason for skip in ledger.skips for reason in skip.reasons)


# ---------------------------------------------------------------------------------------------- the right frames


def digest(frame_HWC: np.ndarray) -> np.ndarray:
    """uint8, (16,): what is compared without keeping pictures."""
    return np.frombuffer(hashlib.md5(np.ascontiguousarray(frame_HWC).tobytes()).digest(), np.uint8)


def digests_of(frames_NHWC: np.ndarray) -> np.ndarray:
    return np.stack([digest(frame) for frame in frames_NHWC])


def sparse_of(frames_NHWC: np.ndarray) -> np.ndarray:
    return np.stack([sparse(frame) for frame in frames_NHWC])


def sparse(frame_HWC: np.ndarray) -> np.ndarray:
    """uint8, at most (16, 16, 3): some of the pixels."""
    height, width = frame_HWC.shape[:2]
    return np.ascontiguousarray(frame_HWC[:: -(-height // 16), :: -(-width // 16)])


def decoded_by_ffmpeg(path: Path) -> tuple[np.ndarray, list[np.ndarray], bool]:
    """All frames in order: their digests, some of their pixels, and whether all came out clean and of one size."""
    digests, pixels, sizes = [], [], set()
    is_clean = True
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream: Any = container.streams.best("video")
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)
                digests.append(digest(turned))
                pixels.append(sparse(turned))
                sizes.add(turned.shape)
                is_clean &= not frame.is_corrupt
    except (av.FFmpegError, AttributeError, ValueError):
        is_clean = False
    return np.array(digests), pixels, is_clean and len(sizes) == 1


def all_frames(reader: VideoReader, change: Change) -> np.ndarray:
    """As many as decode: AVI also counts empty packets."""
    everything = range(len(reader.times_s))
    try:
        return reader.read(everything, change)
    except TruncatedVideo as error:
        return reader.read(everything[: error.num_decodable], change)


KNOWN = {"fate__sintel-signbias.ivf", "fate__sintel-signbias.mp4"}
"""Two frames have the same time: the first one is on screen."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("collection", ["videos", "UCF101"])
def test_frames_are_those_of_ffmpeg(shared_data: Path, collection: str) -> None:
    """Byte for byte by PyAV, in order and from the middle; by other decoders, with FFmpegs of their own, closely."""
    num_clean = num_by_others = 0
    for path in files_of(shared_data, collection):
        digests, pixels, is_clean = decoded_by_ffmpeg(path)
        if not is_clean or path.name in KNOWN:
            continue
        num_clean += 1
        with open_video(path, decoder="pyav") as reader:
            np.testing.assert_array_equal(all_frames(reader, digests_of), digests, path.name)
        for start in {len(digests) // 3, 2 * len(digests) // 3, len(digests) - 1}:
            some = range(start, min(start + 3, len(digests)))
            with open_video(path, decoder="pyav") as reader:
                np.testing.assert_array_equal(reader.read(some, digests_of), digests[some.start : some.stop], path.name)
        try:
            with open_video(path, decoder="decord") as reader:
                others = all_frames(reader, sparse_of)
        except UnreadableSample:
            continue
        num_by_others += 1
        assert np.abs(others.astype(int) - np.stack(pixels)).mean(axis=(1, 2, 3)).max() < 3, path.name
    assert num_clean >= {"videos": 50, "UCF101": 18}[collection]
    assert num_by_others > 0 or collection == "UCF101"


def test_pictures_are_those_of_pillow(shared_data: Path) -> None:
    num_compared = 0
    for path in files_of(shared_data, "pictures"):
        try:
            pixels = read_image(path)
        except UnreadableSample:
            continue
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            if image.mode not in {"RGB", "L", "CMYK", "YCbCr", "1"} or "transparency" in image.info:
                continue
            upright = ImageOps.exif_transpose(image).convert("RGB")
        num_compared += 1
        np.testing.assert_array_equal(pixels, np.asarray(upright), path.name)
    assert num_compared > 40
